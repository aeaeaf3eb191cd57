// Compiles the devnet's contracts into the artifacts that the Rust deployer embeds.
//
//   node compile.mjs [--modules DIR] [--out DIR]           writes one JSON file per contract
//   node compile.mjs [--modules DIR] [--out DIR] --check   writes nothing; fails when a committed file differs
//
// `--modules` is the node_modules folder that holds solc and OpenZeppelin, at the versions in package-lock.json; its
// default is $DEVNET_NODE_MODULES, then node_modules beside this script. `--out` defaults to artifacts beside it.
//
// An artifact is { abi, bytecode, compiler, contractName }, keys sorted, two spaces, a newline at the end. `bytecode`
// is creation code, 0x-prefixed, to which the constructor arguments are appended. It carries no metadata hash, so the
// same sources give the same bytes on every machine. How to deploy them is written at the top of contracts/Manager.sol.

import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArguments } from "./arguments.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const CONTRACTS = join(HERE, "contracts");
const DEPLOYABLE = ["Controller", "Manager", "Nexus", "Response", "Source", "Task", "Terminal", "Vault"];

// Bytes; EIP-170 and EIP-3860. A contract above them compiles and then cannot be deployed.
const RUNTIME_BYTES_MAX = 24_576;
const INITCODE_BYTES_MAX = 49_152;

const SETTINGS = {
  optimizer: { enabled: true, runs: 200 },
  // The last version before PUSH0: the real network is an Opera descendant, and the devnet should ask no more of it.
  evmVersion: "paris",
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
};

/** `value` with the keys of every object in it sorted; arrays keep their order, which is the ABI's. */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

function readSources() {
  const files = readdirSync(CONTRACTS).filter((file) => file.endsWith(".sol")).sort();
  return Object.fromEntries(files.map((file) => [file, { content: readFileSync(join(CONTRACTS, file), "utf8") }]));
}

/** Compiles everything and returns the artifacts as text, by contract name. Warnings are errors. */
function compile(modules) {
  const solc = createRequire(import.meta.url)(join(modules, "solc"));
  const input = { language: "Solidity", sources: readSources(), settings: SETTINGS };
  const readImport = (path) => {
    const file = join(modules, path);
    return existsSync(file) ? { contents: readFileSync(file, "utf8") } : { error: `${path} is not installed` };
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: readImport }));
  const complaints = (output.errors ?? []).filter(({ severity }) => severity !== "info");
  if (complaints.length > 0) throw new Error(complaints.map((each) => each.formattedMessage).join("\n"));
  const artifact = (name) => artifactOf(name, output.contracts[`${name}.sol`][name], solc.version());
  return new Map(DEPLOYABLE.map((name) => [name, artifact(name)]));
}

function artifactOf(contractName, { abi, evm }, compiler) {
  checkSize(`runtime code of ${contractName}`, evm.deployedBytecode.object, RUNTIME_BYTES_MAX);
  checkSize(`creation code of ${contractName}`, evm.bytecode.object, INITCODE_BYTES_MAX);
  const artifact = { abi, bytecode: `0x${evm.bytecode.object}`, compiler, contractName };
  return `${JSON.stringify(sorted(artifact), null, 2)}\n`;
}

function checkSize(what, hex, bytesMax) {
  const bytes = hex.length / 2;
  if (bytes > bytesMax) throw new Error(`the ${what} is ${bytes} bytes, more than ${bytesMax}`);
}

/** The names of the contracts whose file in `folder` is missing or differs. */
function differing(artifacts, folder) {
  return [...artifacts.keys()].filter((name) => {
    const file = join(folder, `${name}.json`);
    return !existsSync(file) || readFileSync(file, "utf8") !== artifacts.get(name);
  });
}

function main() {
  const options = parseArguments(
    process.argv.slice(2),
    { modules: process.env.DEVNET_NODE_MODULES ?? join(HERE, "node_modules"), out: join(HERE, "artifacts") },
    ["check"],
  );
  const artifacts = compile(resolve(options.modules));
  if (!options.check) {
    mkdirSync(options.out, { recursive: true });
    for (const [name, text] of artifacts) writeFileSync(join(options.out, `${name}.json`), text);
    return;
  }
  const stale = differing(artifacts, options.out);
  if (stale.length > 0) {
    const names = stale.join(", ");
    throw new Error(`the sources do not compile to the artifacts of ${names}; run compile.mjs without --check`);
  }
}

try {
  main();
} catch (error) {
  console.error(`compile: ${error.message}`);
  process.exitCode = 1;
}
