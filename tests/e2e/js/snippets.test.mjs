// The JavaScript in README.md and in the guides has to parse.

import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { after } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const guides = (await readdir(join(root, "src/guide"))).filter(name => name.endsWith(".md")).sort();
const folder = await mkdtemp(join(tmpdir(), "axum-refresh-snippets."));
after(() => rm(folder, { recursive: true }));

/** Every block that begins with ```js, with the number of its first line. Indented blocks lose their indentation. */
function blocks(text) {
  const found = [];
  let block = null;
  text.split("\n").forEach((line, index) => {
    if (block === null) {
      const fence = /^( *)(`{3,})(.*)$/.exec(line);
      if (!fence) return;
      const [, indent, ticks, info] = fence;
      block = { indent, ticks, line: index + 2, source: [], isJs: /^\s*(js|javascript|mjs)\b/.test(info) };
    } else if (line.trim() === block.ticks) {
      if (block.isJs) found.push({ line: block.line, source: block.source.join("\n") + "\n" });
      block = null;
    } else {
      block.source.push(line.startsWith(block.indent) ? line.slice(block.indent.length) : line);
    }
  });
  return found;
}

for (const path of ["README.md", ...guides.map(name => `src/guide/${name}`)]) {
  for (const { line, source } of blocks(await readFile(join(root, path), "utf8"))) {
    test(`${path}:${line} parses`, async () => {
      const file = join(folder, `${path.replaceAll("/", "-")}-${line}.mjs`);
      await writeFile(file, source);
      await promisify(execFile)(process.execPath, ["--check", file]);
    });
  }
}
