// Lists, predicts, and is told what is nearest, by types that come from /openapi.json alone.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };
const [url, inputs] = process.argv.slice(2); // where the zoo is, and an image in base64
const zoo = createClient<paths>({ baseUrl: url });

const listed = await zoo.GET("/models", { params: { query: { min_acc: 0.01, limit: 2 } } });
const selected = listed.data!.selected;

const query = { model: selected!.id };
const answer = await zoo.POST("/predict", { params: { query }, body: { inputs, parameters: { top_k: 2 } } });
const predictions: components["schemas"]["Prediction"][] = answer.data!.predictions[0];

const missing = await zoo.GET("/models", { params: { query: { min_acc: 1, max_params: 1 } } });
const problem = missing.error as components["schemas"]["NoModelProblem"];

console.log(
  JSON.stringify({
    id: selected!.id,
    labels: predictions.map(({ label }) => label),
    missing: [missing.response.status, problem.type, problem.best_available!.name],
  }),
);
