// Figure 3 of "Self Expanding Convolutional Neural Networks" (arXiv 2401.05686): five trials on CIFAR-10.

const AT_70 = [13696, 11360, 11360, 11360, 9024];
const AT_80 = [27852, 51880, 22636, 37320, 28588];
const BEST = [
  [74564, 0.834],
  [73720, 0.846],
  [57808, 0.846],
  [66440, 0.845],
  [40960, 0.832],
];

/** { params, accuracy, trial } for each point. */
const PAPER = [
  ...AT_70.map((params, index) => ({ params, accuracy: 0.7, trial: index + 1 })),
  ...AT_80.map((params, index) => ({ params, accuracy: 0.8, trial: index + 1 })),
  ...BEST.map(([params, accuracy], index) => ({ params, accuracy, trial: index + 1 })),
];

/** The paper counts parameters, and nothing else. */
export const paperOf = (dataset, x) => (dataset === "cifar10" && x === "params" ? PAPER : []);
