//! Machine code: cubins and fatbins as NVIDIA's compiler made them (`tests/files/scale.cu`), and broken ones.

use std::fs;

use bundle::{Arch, Bundle, Kernel, Kind, pack};
use proptest::prelude::*;

use crate::example::place;

fn file(name: &str) -> Vec<u8> {
    fs::read(place("files", name)).expect("the file can be read")
}

fn toml(kind: &str, target: &str, min_driver: &str) -> String {
    let target = if target.is_empty() { String::new() } else { format!("target = \"{target}\"\n") };
    format!(
        "format = 1\nname = \"code\"\n[[module]]\nname = \"scale\"\nfile = \"scale\"\nkind = \"{kind}\"\n{target}\
         min_driver = \"{min_driver}\"\n[function.scale]\ndeterminism = \"none\"\nseconds = 1\n\
         [function.scale.buffers.values]\ntype = \"f32\"\nelements = 8\ninput = {{ as = \"json\" }}\noutput = {{ as = \"json\" }}\n\
         [[function.scale.steps]]\nlaunch = \"scale\"\ngrid = [1]\nblock = [8]\n\
         arguments = [{{ buffer = \"values\", access = \"read-write\" }}, {{ value = 2, type = \"f32\" }}, {{ value = 8, type = \"u32\" }}]\n"
    )
}

fn parse(toml: &str, code: &[u8]) -> Result<Bundle, String> {
    let archive = pack(&[("bundle.toml", toml.as_bytes()), ("scale", code)]).map_err(|error| error.to_string())?;
    Ok(Bundle::parse(&archive).expect("what was packed is parsed"))
}

/// A fatbin of plain cubins.
fn fatbin(entries: &[(u32, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (target, cubin) in entries {
        let mut head = vec![0; 64];
        head[0..4].copy_from_slice(&[2, 0, 1, 1]);
        head[4..8].copy_from_slice(&64_u32.to_le_bytes());
        head[8..16].copy_from_slice(&u64::try_from(cubin.len()).expect("small").to_le_bytes());
        head[28..32].copy_from_slice(&target.to_le_bytes());
        content.extend([&head, *cubin].concat());
    }
    let length = u64::try_from(content.len()).expect("small").to_le_bytes();
    [&0xBA55_ED50_u32.to_le_bytes()[..], &[1, 0, 16, 0], &length, &content].concat()
}

fn expected() -> Vec<Kernel> {
    vec![
        Kernel { name: "nothing".to_owned(), parameters: None },
        Kernel { name: "scale".to_owned(), parameters: Some(vec![8, 4, 4]) },
    ]
}

#[test]
fn a_compiled_cubin_tells_its_target_and_its_kernels() {
    for (name, target, driver) in [("scale.sm_75.cubin", 75, "10.0"), ("scale.sm_100.cubin", 100, "12.7")] {
        let parsed = parse(&toml("cubin", &format!("sm_{target}"), driver), &file(name)).expect(name);
        let module = &parsed.modules()[0];
        assert_eq!((module.kind(), module.target(), module.ptx_isa()), (Kind::Cubin, Some(Arch::from(target)), None));
        let names: Vec<_> = module.kernels().iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["nothing", "scale"], "{name}");
        assert_eq!(module.kernel("scale"), expected().get(1), "{name}");
    }
}

#[test]
fn compiled_ptx_tells_the_same() {
    let toml = toml("ptx", "sm_75", "12.9").replace("kind = ", "ptx_isa = \"8.8\"\nkind = ");
    let parsed = parse(&toml, &file("scale.ptx")).expect("compiled PTX");
    assert_eq!(parsed.modules()[0].kernel("scale"), expected().get(1));
    assert_eq!(parsed.modules()[0].kernel("nothing").expect("it is there").parameters, Some(Vec::new()));
}

#[test]
fn a_fatbin_runs_where_one_of_its_cubins_does() {
    let (old, new) = (file("scale.sm_75.cubin"), file("scale.sm_100.cubin"));
    let parsed = parse(&toml("fatbin", "", "12.7"), &fatbin(&[(75, &old)])).expect("a fatbin");
    assert_eq!(parsed.modules()[0].targets(), [Arch::from(75)]);
    let parsed = parse(&toml("fatbin", "", "12.7"), &fatbin(&[(100, &new), (75, &old)])).expect("a fatbin");
    let module = &parsed.modules()[0];
    assert_eq!((module.target(), module.targets()), (None, &[Arch::from(75), Arch::from(100)][..]));
    let runs = |number: u32| module.runs_on(Arch::from(number));
    assert!(runs(75) && runs(100) && runs(103) && !runs(80) && !runs(90) && !runs(120));
}

#[test]
fn machine_code_that_cannot_be_judged_is_refused() {
    let (old, new) = (file("scale.sm_75.cubin"), file("scale.sm_100.cubin"));
    let check = |toml: &str, code: &[u8], words: &str| {
        let error = parse(toml, code).expect_err(words);
        assert!(error.contains(words), "{error}\n  does not say\n{words}");
    };
    let cubin = toml("cubin", "sm_75", "12.0");
    let mended = |at: usize, bytes: &[u8]| {
        let mut code = old.clone();
        code[at..at + bytes.len()].copy_from_slice(bytes);
        code
    };
    check(&cubin, b"", "module[0]: not a cubin");
    check(&cubin, b"\x7fELF", "module[0]: not a cubin");
    check(&cubin, &mended(18, &[62, 0]), "an ELF file for something else");
    check(&cubin, &mended(4, &[1]), "not a cubin");
    check(&cubin, &mended(8, &[6]), "a cubin of ABI version 6");
    check(&cubin, &mended(40, &[0xff; 8]), "not a cubin");
    check(&cubin, &new, "`target` is sm_75, the file's own is sm_100");
    check(&cubin, &file("scale.sm_90a.cubin"), "code for one model of sm_90 only");
    check(&toml("cubin", "sm_75", "9.2"), &old, "needs a driver for CUDA 10.0");
    check(&toml("cubin", "", "12.0"), &old, "`target = \"sm_75\"` is missing");
    check(&cubin.replace("type = \"u32\"", "type = \"u64\""), &old, "kernel scale takes 4 bytes here, this has 8");
    check(&cubin.replace("launch = \"scale\"", "launch = \"scales\""), &old, "no module exports it");
    let with_isa = cubin.replace("kind = ", "ptx_isa = \"8.8\"\nkind = ");
    check(&with_isa, &old, "`ptx_isa` is for PTX only");

    let plain = toml("fatbin", "", "12.7");
    let good = fatbin(&[(75, &old), (100, &new)]);
    let mended = |at: usize, bytes: &[u8]| {
        let mut code = good.clone();
        code[at..at + bytes.len()].copy_from_slice(bytes);
        code
    };
    check(&plain, b"", "the fatbin ends too early");
    check(&plain, &old, "not a fatbin");
    check(&plain, &good[..good.len() - 1], "not as long as its head says");
    check(&plain, &mended(16, &[1]), "fatbin entry 0: it is no cubin; PTX goes into a module of its own");
    check(&plain, &mended(32, &[1]), "fatbin entry 0: it is compressed");
    check(&plain, &mended(56, &[0, 0x20]), "fatbin entry 0: it is compressed");
    check(&plain, &mended(57, &[0x80]), "fatbin entry 0: it is compressed");
    check(&plain, &mended(20, &[63]), "its head has 63 bytes");
    check(&plain, &mended(24, &[0xff; 8]), "it has no end");
    check(&plain, &mended(28, &[1]), "it goes beyond the file");
    check(&plain, &mended(44, &[80]), "its head says sm_80, its cubin another target");
    check(&plain, &fatbin(&[(75, &old), (75, &old)]), "two entries are for sm_75");
    check(&plain, &fatbin(&[]), "exports no kernel");
    check(&toml("fatbin", "sm_75", "12.7"), &good, "a fatbin lists its targets itself");
    check(&toml("fatbin", "", "12.6"), &good, "needs a driver for CUDA 12.7");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn changed_machine_code_never_panics(changes in prop::collection::vec((0usize..8192, any::<u8>()), 1..6), is_fat: bool) {
        let cubin = file("scale.sm_75.cubin");
        let (mut code, toml) = if is_fat { (fatbin(&[(75, &cubin)]), toml("fatbin", "", "12.7")) } else { (cubin, toml("cubin", "sm_75", "12.7")) };
        for (at, value) in changes {
            let length = code.len();
            code[at % length] = value;
        }
        let _ = parse(&toml, &code);
    }
}
