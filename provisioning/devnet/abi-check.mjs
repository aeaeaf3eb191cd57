// Checks that the artifacts offer everything the SDK's ABIs promise.
//
//   node abi-check.mjs --sdk-abis DIR [--artifacts DIR]
//
// `--sdk-abis` holds the SDK's ManagerAbi.json … ResponseAbi.json, as unpacked from its wheel (the mainnet set: its
// Vault is a superset of testnet's). Each constructor, function, event and error there must be in the artifact with
// the same argument names, types, struct and enum names, indexed flags, results and mutability. What the artifacts
// have beyond that is listed, and is not an error.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArguments } from "./arguments.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const CONTRACTS = ["Controller", "Manager", "Nexus", "Response", "Source", "Task", "Terminal", "Vault"];

function describeParameter({ name, type, internalType, indexed, components }) {
  const fields = components ? `{${components.map(describeParameter).join(", ")}}` : "";
  const declared = internalType === type ? "" : internalType;
  return [type + fields, declared, indexed ? "indexed" : "", name].filter((part) => part).join(" ");
}

function describeParameters(parameters = []) {
  return `(${parameters.map(describeParameter).join(", ")})`;
}

/** An ABI entry as one line that says everything about it. */
function describe(entry) {
  const results = entry.outputs ? ` returns ${describeParameters(entry.outputs)}` : "";
  const traits = [entry.stateMutability, entry.anonymous ? "anonymous" : ""].filter((trait) => trait).join(" ");
  return `${titleOf(entry)}${describeParameters(entry.inputs)} ${traits}${results}`;
}

function titleOf({ type, name }) {
  return name ? `${type} ${name}` : type;
}

/** Lines about what `ours` lacks of `theirs`, and the titles of what it has besides. */
function compare(contract, ours, theirs) {
  const [offered, promised] = [new Set(ours.map(describe)), new Set(theirs.map(describe))];
  const faults = theirs
    .filter((entry) => !offered.has(describe(entry)))
    .map((entry) => {
      const rivals = ours.filter((other) => titleOf(other) === titleOf(entry));
      const verdict = rivals.length > 0 ? "different" : "missing";
      const lines = [`  sdk:  ${describe(entry)}`, ...rivals.map((other) => `  ours: ${describe(other)}`)];
      return [`${contract}: ${titleOf(entry)} is ${verdict}`, ...lines].join("\n");
    });
  const extras = ours.filter((entry) => !promised.has(describe(entry))).map(titleOf);
  return { faults, extras };
}

function main() {
  const options = parseArguments(process.argv.slice(2), { "sdk-abis": undefined, artifacts: join(HERE, "artifacts") });
  if (options["sdk-abis"] === undefined) throw new Error("--sdk-abis DIR is required");
  const faults = CONTRACTS.flatMap((contract) => {
    const { abi } = JSON.parse(readFileSync(join(options.artifacts, `${contract}.json`), "utf8"));
    const theirs = JSON.parse(readFileSync(join(options["sdk-abis"], `${contract}Abi.json`), "utf8"));
    const found = compare(contract, abi, theirs);
    if (found.extras.length > 0) console.log(`${contract}: beyond the SDK: ${found.extras.join(", ")}`);
    return found.faults;
  });
  if (faults.length > 0) {
    throw new Error(`${faults.length} entries of the SDK's ABIs are not offered\n${faults.join("\n")}`);
  }
}

try {
  main();
} catch (error) {
  console.error(`abi-check: ${error.message}`);
  process.exitCode = 1;
}
