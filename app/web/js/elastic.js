// Elastic files: several sizes of one network in one file. Each size, a level, is a checkpoint like any other.

/** Of these checkpoints, those that are levels of one file: [{ digest, numLevels, items }], the smallest item first. */
export function filesOf(items) {
  const files = new Map();
  for (const item of items) {
    if (!item.elastic) continue;
    const { file: digest, levels: numLevels } = item.elastic;
    if (!files.has(digest)) files.set(digest, { digest, numLevels, items: [] });
    files.get(digest).items.push(item);
  }
  for (const file of files.values()) file.items.sort((a, b) => a.elastic.level - b.elastic.level);
  return [...files.values()];
}
