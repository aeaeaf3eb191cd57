// The command line of the two scripts here: `--name value` pairs and `--name` switches, nothing else.

/**
 * Parses `argv`. `values` maps each option that takes a value to its default, `switches` lists those that take none.
 * Throws on anything else, so that a misspelt `--check` never rewrites the artifacts.
 */
export function parseArguments(argv, values, switches = []) {
  const options = { ...values, ...Object.fromEntries(switches.map((name) => [name, false])) };
  for (let i = 0; i < argv.length; i += 1) {
    const name = argv[i].replace(/^--/, "");
    if (name === argv[i] || !(name in options)) throw new Error(`unknown argument ${argv[i]}`);
    if (switches.includes(name)) {
      options[name] = true;
    } else {
      i += 1;
      if (argv[i] === undefined) throw new Error(`--${name} needs a value`);
      options[name] = argv[i];
    }
  }
  return options;
}
