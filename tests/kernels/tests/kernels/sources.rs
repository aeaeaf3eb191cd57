//! The bundles in `tests/bundles`: what their sources declare and their plans pass is what the signatures say.

use std::fs;
use std::path::{Path, PathBuf};

use kernels::{Kind, Parameter, names, parameters};
use toml::{Table, Value};

const BUNDLES: [&str; 4] = ["gemm", "mlp", "n-body", "path-tracer"];

fn directory(bundle: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles").join(bundle)
}

fn plan(bundle: &str) -> Table {
    fs::read_to_string(directory(bundle).join("bundle.toml")).unwrap().parse().unwrap()
}

/// The CUDA sources that the bundles name.
fn sources() -> Vec<String> {
    let mut sources = Vec::new();
    for bundle in BUNDLES {
        for module in plan(bundle)["module"].as_array().unwrap() {
            sources.push(fs::read_to_string(directory(bundle).join(module["source"].as_str().unwrap())).unwrap());
        }
    }
    sources
}

/// A kernel's name and its parameters as the CUDA source writes them.
fn declarations(source: &str) -> Vec<(String, Vec<String>)> {
    let kernel = |text: &str| {
        // Behind the launch bounds, which may themselves have parentheses, the name starts a line.
        let (_, declaration) = text.split_once('\n')?;
        let (name, rest) = declaration.split_once('(')?;
        let (list, _) = rest.split_once(')')?;
        let words =
            |one: &str| one.split_whitespace().filter(|word| *word != "__restrict__").collect::<Vec<_>>().join(" ");
        Some((name.to_owned(), list.split(',').map(words).collect()))
    };
    source.split("extern \"C\" __global__").skip(1).filter_map(kernel).collect()
}

fn written(parameter: &Parameter) -> Vec<String> {
    let name = parameter.name;
    let types: &[&str] = match parameter.kind {
        Kind::Pointer { element_bytes: 1, writes: true } => &["unsigned char*"],
        Kind::Pointer { element_bytes: 2, writes: false } => &["const half*"],
        Kind::Pointer { element_bytes: 4, writes: true } => &["float*"],
        Kind::Pointer { element_bytes: 4, writes: false } => &["const float*", "const unsigned*"],
        Kind::Scalar { bytes: 4 } => &["unsigned", "float"],
        Kind::Pointer { .. } | Kind::Scalar { .. } => &[],
    };
    types.iter().map(|of| format!("{of} {name}")).collect()
}

#[test]
fn the_cuda_sources_declare_the_signatures() {
    let mut found = Vec::new();
    for (name, declared) in sources().iter().flat_map(|source| declarations(source)) {
        let expected = parameters(&name).unwrap();
        assert_eq!(declared.len(), expected.len(), "{name}");
        for (text, parameter) in declared.iter().zip(expected) {
            assert!(written(parameter).contains(text), "{name}: {text}");
        }
        found.push(name);
    }
    found.sort_unstable();
    // The runner's benchmark has no CUDA source; its PTX stands in the runner.
    let expected: Vec<&str> = names().iter().copied().filter(|name| !name.starts_with("bench_")).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_plans_pass_what_the_signatures_say() {
    for bundle in BUNDLES {
        for (name, function) in plan(bundle)["function"].as_table().unwrap() {
            let launches = launches(function["steps"].as_array().unwrap());
            assert!(!launches.is_empty(), "{bundle}: {name}");
            for launch in launches {
                check(&format!("{bundle}: {name}"), function, launch);
            }
        }
    }
}

fn launches(steps: &[Value]) -> Vec<&Value> {
    let inside =
        |step: &Value| step.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().len();
    let mut found = Vec::new();
    for step in steps {
        if inside(step) > 0 {
            found.extend(launches(step["steps"].as_array().unwrap()));
        } else if step.get("launch").is_some() {
            found.push(step);
        }
    }
    found
}

fn check(place: &str, function: &Value, launch: &Value) {
    let kernel = launch["launch"].as_str().unwrap();
    let arguments = launch["arguments"].as_array().unwrap();
    let expected = parameters(kernel).unwrap();
    assert_eq!(arguments.len(), expected.len(), "{place}: {kernel}");
    for (argument, parameter) in arguments.iter().zip(expected) {
        let place = format!("{place}: {kernel}: {}", parameter.name);
        let bytes = match parameter.kind {
            Kind::Pointer { element_bytes, writes } => {
                let access = argument["access"].as_str().unwrap();
                assert_eq!(access != "read", writes, "{place}");
                let buffer = argument["buffer"].as_str().unwrap();
                (function["buffers"][buffer]["type"].as_str().unwrap(), element_bytes)
            }
            Kind::Scalar { bytes } => (argument["type"].as_str().unwrap(), bytes),
        };
        let (of, bytes) = bytes;
        let width = of.trim_start_matches(|letter: char| letter.is_alphabetic());
        assert_eq!(width.parse(), Ok(bytes * 8), "{place}");
    }
}
