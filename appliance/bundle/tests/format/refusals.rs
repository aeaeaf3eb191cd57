//! Bundles that are refused when they are read, each with the words that say where and why.

use bundle::limits::{MODULES_MAX, STEPS_MAX};
use bundle::{Bundle, pack};

use crate::example::{PTX, packed, with};

fn check(toml: &str, expected: &str) {
    match packed(toml) {
        Ok(_) => panic!("accepted, but expected: {expected}"),
        Err(error) => {
            let words = error.to_string();
            assert!(words.contains(expected), "{words}\n  does not say\n{expected}");
        }
    }
}

/// `old` of the example replaced by `new` is refused with `expected`.
fn table(cases: &[(&str, &str, &str)]) {
    for (old, new, expected) in cases {
        check(&with(old, new), expected);
    }
}

#[test]
fn the_head_of_a_bundle_is_checked() {
    table(&[
        ("format = 1", "format = 2", "format 1 is read here, not 2"),
        ("format = 1", "", "format 1 is read here, not one without"),
        ("format = 1", "format = 1\nformat = 1", "line 2: duplicate key"),
        ("format = 1", "format = 2\nfresh = true", "format 1 is read here, not 2"),
        ("name = \"example\"", "name = \"Example\"", "name: \"Example\" is no name"),
        ("name = \"example\"", "name = \"\"", "name: \"\" is no name"),
        ("name = \"example\"", "name = \"../example\"", "is no name"),
        ("name = \"example\"", "nam = \"example\"", "line 2: unknown key `nam`, did you mean `name`?"),
        ("name = \"example\"", "", "missing field `name`"),
        ("description = \"What", &format!("description = \"{}", "x".repeat(501)), "description: it has more than 500"),
    ]);
    let mut long = with("format = 1", "format = 1 #");
    long.push_str(&"#".repeat(256 << 10));
    check(&long, "at most 262144 are read");
    check("format = 1\nname = \"x\"\n", "no module names this file");
}

#[test]
fn modules_are_held_against_their_files() {
    table(&[
        ("name = \"code\"", "name = \"Code\"", "module[0].name: \"Code\" is no name"),
        (
            "file = \"example.ptx\"",
            "file = \"exampel.ptx\"",
            "module[0].file: unknown name `exampel.ptx`, did you mean `example.ptx`?",
        ),
        ("file = \"example.ptx\"", "file = \"../example.ptx\"", "module[0].file: unknown name"),
        ("file = \"example.ptx\"", "source = \"example.cu\"", "unknown key `source`"),
        ("kind = \"ptx\"", "kind = \"elf\"", "unknown variant `elf`"),
        ("kind = \"ptx\"", "kind = \"cubin\"", "module[0]: not a cubin"),
        ("kind = \"ptx\"", "kind = \"fatbin\"", "module[0]: not a fatbin"),
        ("ptx_isa = \"8.4\"", "ptx_isa = \"8.3\"", "`ptx_isa` is 8.3, the file's own .version is 8.4"),
        ("ptx_isa = \"8.4\"", "ptx_isa = \"8\"", "a version is written such as `12.4`"),
        ("ptx_isa = \"8.4\"", "", "`ptx_isa = \"8.4\"` is missing"),
        ("target = \"sm_75\"", "target = \"sm_80\"", "`target` is sm_80, the file's own is sm_75"),
        ("target = \"sm_75\"", "target = \"sm_90a\"", "a target is written such as `sm_90`"),
        ("target = \"sm_75\"", "", "`target = \"sm_75\"` is missing"),
        ("min_driver = \"12.4\"", "min_driver = \"12.3\"", "needs a driver for CUDA 12.4 or later"),
        ("min_driver = \"12.4\"", "min_driver = \"14.0\"", "there is no such CUDA"),
        ("min_driver = \"12.4\"", "", "missing field `min_driver`"),
    ]);
    let twice =
        "[[module]]\nname = \"code\"\nfile = \"example.ptx\"\nkind = \"ptx\"\nmin_driver = \"12.4\"\n[function.scale]";
    check(&with("[function.scale]", twice), "module[1].name: `code` stands twice");
    check(&with("[function.scale]", &twice.replace("code", "other")), "module[1].file: unknown name `example.ptx`");
}

#[test]
fn ptx_of_unknown_or_impossible_versions_is_refused() {
    let check = |old: &str, new: &str, toml: String, expected: &str| {
        let ptx = PTX.replacen(old, new, 1);
        let error = pack(&[("bundle.toml", toml.as_bytes()), ("example.ptx", ptx.as_bytes())]).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}\n  does not say\n{expected}");
    };
    let isa = |isa: &str| with("ptx_isa = \"8.4\"", &format!("ptx_isa = \"{isa}\""));
    let target = |target: &str| with("target = \"sm_75\"", &format!("target = \"{target}\""));
    check("8.4", "5.0", isa("5.0"), "PTX ISA 5.0 does not have target sm_75; the first that does is 6.3");
    check("8.4", "8.9", isa("8.9"), "PTX ISA 8.9 is not known here");
    check("8.4", "10.0", isa("10.0"), "PTX ISA 10.0 is not known here");
    check("8.4", "9.0", isa("9.0"), "needs a driver for CUDA 13.0");
    check("sm_75", "sm_99", target("sm_99"), "target sm_99 is not known here");
    check("sm_75", "sm_100", target("sm_100"), "PTX ISA 8.4 does not have target sm_100");
    check("sm_75", "sm_75, debug", target("sm_75"), "more than one value");
    check(".address_size 64", ".address_size 32", target("sm_75"), "`.address_size` is 64 here");
    check(".visible .entry blend", ".visible .entry scale", target("sm_75"), "the file exports `scale` twice");
    check(".visible .entry blend", ".visible .entry %blend", target("sm_75"), "a kernel is named with at most 256");
}

#[test]
fn parameters_and_buffers_are_checked() {
    table(&[
        ("bitwise-any", "bitwise", "invalid value: string \"bitwise\""),
        ("\"bitwise-any\"", "{ tolerance = nan, metric = \"relative\" }", "a tolerance is finite"),
        ("\"bitwise-any\"", "{ tolerance = -1.0, metric = \"relative\" }", "a tolerance is finite"),
        ("\"bitwise-any\"", "{ tolerance = 1.0, metric = \"ulp\" }", "unknown variant `ulp`"),
        ("seconds = 20", "seconds = 0", "function.scale.seconds: a run has 1 to 3600"),
        ("seconds = 20", "seconds = 3601", "function.scale.seconds: a run has 1 to 3600"),
        ("seconds = 20", "seconds = -1", "bundle.toml line 15: invalid value"),
        ("seconds = 20", "secs = 20", "unknown key `secs`, did you mean `steps`?"),
        ("\"3 * 512 + 16 * count\"", "\"lots\"", "function.scale.vram_bytes: expression `lots`: unknown name"),
        ("\"3 * 512 + 16 * count\"", "-1", "-1 is below zero"),
        ("[function.scale]", "[function.Scale]\n[function.scale]", "missing field `determinism`"),
        ("parameters.count", "parameters.Count", "\"Count\" is no name"),
        ("parameters.count", "parameters.min", "expressions have a function of this name"),
        ("type = \"u32\"", "type = \"u16\"", "function.scale.parameters.count.type: a parameter is u32"),
        ("type = \"u32\"", "type = \"int\"", "unknown variant `int`"),
        ("from = \"/count\"", "from = \"count\"", "function.scale.parameters.count.from: \"count\" is no JSON pointer"),
        ("from = \"/count\"", "from = \"/~2\"", "is no JSON pointer"),
        ("min = 1\n", "", "function.scale.parameters.count.min: a whole parameter has `min` and `max`"),
        ("max = 4096\n", "", "function.scale.parameters.count.max: a whole parameter has `min` and `max`"),
        ("max = 4096", "max = 0", "u32 0 is below `min`"),
        ("max = 4096", "max = 4294967296", "4294967296 is no finite u32"),
        ("max = 4096", "max = 4096.0", "4096 is no finite u32"),
        ("max = 4096", "max = \"4096\"", "the text \"4096\" is no finite u32"),
        ("min = 1\n", "min = -1\n", "-1 is no finite u32"),
        ("default = 4\n", "default = 0\n", "function.scale.parameters.count.default: u32 0 is below the least"),
        ("default = 4\n", "default = 4097\n", "function.scale.parameters.count.default: u32 4097 is above"),
        ("max = 8.0", "max = nan", "function.scale.parameters.factor.max: NaN is no finite f32"),
        ("max = 8.0", "max = inf", "function.scale.parameters.factor.max: inf is no finite f32"),
        ("max = 8.0", "max = 1e39", "is no finite f32"),
        ("default = 0.5", "default = nan", "function.scale.parameters.factor.default: NaN is no finite f32"),
        ("default = 0.5", "default = 8.5", "f32 8.5 is above the greatest"),
        ("[function.scale.parameters.rounds]", "[function.scale.parameters.count]", "duplicate key"),
        ("buffers.values", "buffers.val-ues", "is no name"),
        ("type = \"f32\"\nelements", "type = \"f31\"\nelements", "unknown variant `f31`"),
        ("elements = \"count\"", "elements = \"tint\"", "unknown name `tint`"),
        ("elements = \"count\"", "elements = \"factor\"", "unknown name `factor`"),
        ("elements = \"count\"", "elements = \"i\"", "unknown name `i`"),
        ("elements = \"count\"", "elements = 1.5", "1.5 is no whole number"),
        ("elements = \"count\"", "", "missing field `elements`"),
        ("input = { from", "inputs = { from", "unknown key `inputs`, did you mean `input`?"),
        ("as = \"base64\" }\noutput", "as = \"hex\" }\noutput", "unknown variant `hex`"),
        ("as = \"base64\" }\noutput", "as = \"png\" }\noutput", "unknown variant `png`"),
        ("to = \"/values\"", "to = \"/out\"", "where function.scale.buffers.picture.output already goes"),
        ("to = \"/values\"", "to = \"/out/twins\"", "already goes"),
        ("to = \"/values\"", "to = \"\"", "already goes"),
        ("to = \"/kernel_ms\"", "to = \"/values\"", "function.scale.times.kernel_ms: it goes to \"/values\""),
        ("type = \"u8\"", "type = \"u16\"", "an image is made of u8, not u16"),
        ("channels = 3", "channels = 2", "an image has 1, 3 or 4 channels"),
        (", channels = 3", "", "an image has `width`, `height` and `channels`"),
        ("as = \"json\" }", "as = \"json\", width = 1 }", "are for `as = \"png\"`"),
    ]);
}

#[test]
fn a_function_without_outputs_is_refused() {
    let toml = with("output = { to = \"/values\", as = \"base64\" }", "");
    let toml = toml.replace("output = { to = \"/out/twins\", as = \"json\" }", "");
    let (head, rest) = toml.split_once("output = { to = \"/out/picture\"").expect("an image");
    let rest = rest.split_once('\n').expect("more lines").1;
    let (steps, _) = rest.split_once("[function.scale.times").expect("times");
    check(&format!("{head}{steps}"), "function.scale: nothing goes out");
}

#[test]
fn steps_are_checked() {
    table(&[
        (
            "launch = \"scale\"",
            "launch = \"scal\"",
            "steps[1].steps[0].launch: no module exports it: unknown name `scal`, did you mean `scale`?",
        ),
        ("launch = \"scale\"", "launch = \"hidden\"", "no module exports it"),
        ("launch = \"scale\"", "launch = \"../scale\"", "is no kernel's name"),
        ("launch = \"scale\"", "launch = \"\"", "is no kernel's name"),
        ("launch = \"scale\"", "lanch = \"scale\"", "unknown key `lanch`, did you mean `launch`?"),
        ("launch = \"scale\"", "launch = \"blend\"", "steps[1].steps[0].arguments: kernel blend takes 4, this gives 3"),
        ("launch = \"scale\"", "launch = \"scale\"\nmark = \"m\"", "a step has either `launch` or `mark`"),
        ("launch = \"scale\"", "launch = \"scale\"\nindex = \"m\"", "`index` is for `repeat`, not for `launch`"),
        ("module = \"code\"", "module = \"cod\"", "steps[3].module: unknown name `cod`, did you mean `code`?"),
        ("grid = [\"1\"]", "grid = []", "steps[5].grid: there are 1 to 3 of them, not 0"),
        ("grid = [\"1\"]", "grid = [1, 1, 1, 1]", "steps[5].grid: there are 1 to 3 of them, not 4"),
        ("grid = [\"1\"]", "", "steps[5].grid: it is missing"),
        ("block = [\"32\"]", "", "steps[5].block: it is missing"),
        ("block = [\"32\"]", "block = [\"32 *\"]", "steps[5].block[0]: expression `32 *`: it ends"),
        ("block = [\"32\"]", "block = [\"i\"]", "steps[5].block[0]: expression `i`: unknown name `i`"),
        (
            "buffer = \"values\", access = \"read-write\"",
            "buffer = \"value\", access = \"read-write\"",
            "steps[1].steps[0].arguments[0]: no such buffer: unknown name `value`, did you mean `values`?",
        ),
        ("access = \"read-write\"", "access = \"all\"", "unknown variant `all`"),
        (", access = \"read-write\"", "", "steps[1].steps[0].arguments[0]: a buffer has `access`"),
        (", access = \"read-write\"", ", access = \"read\", type = \"f32\"", "a buffer has its own type"),
        (
            "{ value = \"factor\", type = \"f32\" }",
            "{ value = \"factor\" }",
            "steps[1].steps[0].arguments[1]: a value has a `type`",
        ),
        ("{ value = \"factor\", type = \"f32\" }", "{ }", "an argument is either a `buffer` or a `value`"),
        (
            "{ value = \"factor\", type = \"f32\" }",
            "{ value = 1, type = \"f32\", buffer = \"values\" }",
            "an argument is either",
        ),
        ("{ value = \"factor\", type = \"f32\" }", "{ value = 1, type = \"f32\", offset = 1 }", "are for buffers"),
        ("{ value = \"factor\", type = \"f32\" }", "{ value = 1, type = \"f16\" }", "a value is u32, i32"),
        (
            "{ value = \"factor\", type = \"f32\" }",
            "{ value = \"factor\", type = \"f64\" }",
            "`factor` is f32, not f64",
        ),
        (
            "{ value = \"factor\", type = \"f32\" }",
            "{ value = 1, type = \"f64\" }",
            "arguments[1]: kernel scale takes 4 bytes here, this has 8",
        ),
        (
            "{ value = \"factor\", type = \"f32\" }",
            "{ buffer = \"twins\", access = \"read\" }",
            "arguments[1]: kernel scale takes 4 bytes here, this has 8",
        ),
        ("{ value = \"factor\", type = \"f32\" }", "{ value = nan, type = \"f32\" }", "is no finite f32"),
        ("{ value = \"factor\", type = \"f32\" }", "{ value = \"nan\", type = \"f32\" }", "is no finite f32"),
        ("{ value = \"factor\", type = \"f32\" }", "{ value = \"inf\", type = \"f32\" }", "is no finite f32"),
        ("{ value = \"factor\", type = \"f32\" }", "{ value = 1e40, type = \"f32\" }", "is no finite f32"),
        ("{ value = \"factor\", type = \"f32\" }", "{ value = \"count\", type = \"f32\" }", "`count` is u32, not f32"),
        ("{ value = \"tint\", type = \"i32\" }", "{ value = \"tint\", type = \"u32\" }", "`tint` is i32, not u32"),
        ("{ value = \"tint\", type = \"i32\" }", "{ value = 2147483648, type = \"i32\" }", "is no finite i32"),
        ("{ value = \"tint\", type = \"i32\" }", "{ value = 1.5, type = \"i32\" }", "is no finite i32"),
        ("to = \"twins\", to", "to = \"picture\", to", "steps[2].copy: `values` is f32, `picture` is u8"),
        ("copy = { from = \"values\"", "copy = { from = \"valeus\"", "steps[2].copy: no such buffer"),
        ("value = 7", "value = 256", "steps[4].fill.value: Integer(256) is no finite u8"),
        ("value = 7", "value = -1", "is no finite u8"),
        ("value = 7", "value = 0.5", "is no finite u8"),
        ("repeat = \"rounds\"", "repeat = \"factor\"", "steps[1].repeat: expression `factor`: unknown name"),
        (
            "repeat = \"rounds\"",
            "repeat = \"1000000000\"",
            "function.scale.steps: up to 1000000006 operations, at most 65536",
        ),
        ("repeat = \"rounds\"", "repeat = \"rounds * 18446744073709551615\"", "operations, at most 65536"),
        ("max = 100", "max = 1000000000", "function.scale.steps: up to 1000000006 operations, at most 65536"),
        ("index = \"i\"", "index = \"count\"", "steps[1].index: `count` already has a meaning here"),
        ("index = \"i\"", "index = \"factor\"", "`factor` already has a meaning here"),
        ("index = \"i\"", "index = \"max\"", "`max` already has a meaning here"),
        ("index = \"i\"", "index = \"I\"", "\"I\" is no name"),
        ("mark = \"end\"", "mark = \"begin\"", "mark `begin` stands twice"),
        ("mark = \"end\"", "mark = \"\"", "steps[6].mark: \"\" is no name"),
        ("mark = \"end\"", "", "steps[6]: a step has one of"),
        ("until = \"end\"", "until = \"ende\"", "times.kernel_ms.until: unknown name `ende`, did you mean `end`?"),
        ("until = \"end\"", "until = \"begin\"", "`begin` is not before `begin`"),
    ]);
}

#[test]
fn repeats_are_bounded_in_depth_number_and_work() {
    let nest = |depth: usize, count: &str| {
        let mut text = String::new();
        for level in 0..depth {
            text.push_str(&format!("[[function.scale{}.steps]]\nrepeat = \"{count}\"\n", ".steps".repeat(level)));
        }
        let inner = ".steps".repeat(depth);
        text.push_str(&format!("[[function.scale{inner}.steps]]\nfill = {{ buffer = \"picture\", value = 1 }}\n"));
        with("[function.scale.times", &format!("{text}[function.scale.times"))
    };
    assert!(packed(&nest(4, "2")).is_ok());
    check(&nest(5, "2"), "repeats go at most 4 deep");
    check(&nest(4, "1000"), "operations, at most 65536");
    check(&nest(60, "1"), "repeats go at most 4 deep");
    // Loops that would turn for years without doing anything.
    let idle = "[[function.scale.steps]]\nrepeat = \"1000000000\"\n[[function.scale.steps.steps]]\nrepeat = 0\n\
                [[function.scale.steps.steps.steps]]\nfill = { buffer = \"picture\", value = 1 }\n[function.scale.times";
    check(&with("[function.scale.times", idle), "parts of expressions to evaluate, at most 16777216");
    let empty = with("repeat = \"rounds\"\nindex", "repeat = \"rounds\"\nsteps = []\nindex");
    check(&empty, "bundle.toml line");
    let mark =
        "[[function.scale.steps]]\nrepeat = 2\n[[function.scale.steps.steps]]\nmark = \"lap\"\n[function.scale.times";
    check(&with("[function.scale.times", mark), "a mark is passed once");
    let many = "[[function.scale.steps]]\nfill = { buffer = \"picture\", value = 1 }\n".repeat(STEPS_MAX);
    check(
        &with("[function.scale.times", &format!("{many}[function.scale.times")),
        "there are 1 to 256 of them, not 263",
    );
    let steps = "[[function.scale.steps]]\nrepeat = 65000\n[[function.scale.steps.steps]]\n";
    let wide = vec!["{ buffer = \"picture\", access = \"read\" }"; 65].join(",");
    let launch = format!("launch = \"paint\"\ngrid = [1]\nblock = [1]\narguments = [{wide}]\n[function.scale.times");
    check(&with("[function.scale.times", &format!("{steps}{launch}")), "there are 0 to 64 of them, not 65");
}

#[test]
fn a_text_that_nests_without_end_is_refused() {
    for text in [
        format!("format = 1\nname = {}", "[".repeat(100_000)),
        format!("format = 1\nname = {}", "{a=".repeat(50_000)),
        format!("format = 1\n{}a = 1", "a.".repeat(100_000)),
        format!("format = 1\n[{}a]", "a.".repeat(100_000)),
        format!("format = 1\n[[function.f{}]]", ".steps".repeat(40_000)),
    ] {
        assert!(packed(&text).is_err());
    }
}

#[test]
fn the_archive_is_flat_sorted_and_small() {
    let manifest = ("bundle.toml", crate::example::TOML.as_bytes());
    let ptx = ("example.ptx", PTX.as_bytes());
    let check = |files: &[(&str, &[u8])], expected: &str| {
        let error = pack(files).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}\n  does not say\n{expected}");
    };
    check(&[], "it is empty");
    check(&[ptx], "its first file is \"example.ptx\"");
    check(&[ptx, manifest], "its first file is \"example.ptx\"");
    check(&[manifest], "module[0].file: unknown name `example.ptx`");
    check(&[manifest, ptx, ptx], "it stands behind \"example.ptx\"");
    check(&[manifest, ptx, ("a.ptx", b"")], "it stands behind \"example.ptx\"");
    check(&[manifest, ptx, ("z.ptx", b"")], "archive entry \"z.ptx\": no module names this file");
    check(&[manifest, manifest, ptx], "archive entry \"bundle.toml\"");
    for name in ["../x", "a/b", "/x", "..", ".", ".x", "", "X.ptx", "a b", "a\\b", "a\0b", "é", &"a".repeat(65)] {
        check(&[manifest, (name, b"")], "a module's file is named with 1 to 64");
    }
    let names: Vec<_> = (0..=MODULES_MAX).map(|index| format!("m{index:03}")).collect();
    let many: Vec<(&str, &[u8])> =
        [manifest].into_iter().chain(names.iter().map(|name| (name.as_str(), &b""[..]))).collect();
    check(&many, "it has 33 modules, at most 32");
    let large = vec![0; 65 << 20];
    check(&[manifest, ("large", &large)], "a bundle has at most 67108864");
    assert!(Bundle::parse(&large).expect_err("too long").to_string().contains("a bundle has at most 67108864"));
}
