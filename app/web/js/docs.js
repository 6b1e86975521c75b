// The page at /docs: Swagger UI, over the document of this very service.

import { token } from "./service.js";

// Given to the zoo's page in this tab; the form behind "Authorize" takes one too.
const known = token();

window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "list",
  requestInterceptor(request) {
    if (known && !request.headers.Authorization) request.headers.Authorization = `Bearer ${known}`;
    return request;
  },
});
