//! The whole report on a GPU that is not there. It runs the four examples and ends in the faults that it is told; what
//! it does not know is in the report as such.

mod kit;

use fake_gpu_script::Script;

use crate::kit::{World, row};

#[test]
fn every_section_says_what_it_found() {
    let world = World::new(&World::small());
    let output = world.run(&["--no-jail"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("panicked"), "{said}");

    let report = world.report();
    let passed = [
        "gemm_f32, 65 x 130 x 33",
        "gemm_f16, 144 x 272 x 48",
        "simulate, 300 bodies, 5 steps",
        "train, 9 x 33 x 5, batch 20, 40 steps",
        "render, 64 x 48, 4 samples",
        "what was copied comes back as it was",
        "a billion steps",
        "two outputs in one place, sent to a worker",
        "job A fills the memory with a canary",
        "job B finds no byte of it",
        "illegal_address",
        "misaligned",
        "assertion",
        "trap",
        "stack_overflow",
        "after assertion: the next job",
        "a kernel without end on every multiprocessor",
        "the next job starts within 10 s of a kill",
        "more memory than any GPU has, in 63 buffers of 16 GiB",
        "a kernel that starts kernels",
        "after all of it: the next job",
    ];
    for what in passed {
        assert_eq!(row(&report, what)["verdict"], "passed", "{}", row(&report, what));
    }
    for what in ["printing", "heap", "nothing", "a kernel that draws power"] {
        let row = row(&report, what);
        assert_eq!((&row["verdict"], &row["note"]), (&"not_run".into(), &"unknown kernel".into()), "{row}");
    }
    for what in ["cold worker: until warm", "warm job: load modules", "deadline to the next first kernel"] {
        assert!(row(&report, what)["figures"]["median"].as_f64().is_some_and(|ms| ms >= 0.0), "{what}");
    }
    let bundle = row(&report, "gemm_f32 64^3, one launch of 20: bundle");
    assert_eq!((&bundle["place"], &bundle["ratio"]["goal"]), (&"outside_the_jail".into(), &1.01.into()), "{bundle}");
    assert!(bundle["note"].as_str().is_some_and(|note| note.contains("same bytes")), "{bundle}");
    assert_eq!(report["environment"]["jail"], "no: it was not wanted");

    let text = std::fs::read_to_string(world.out("gpu-report.md")).expect("a table");
    assert!(text.starts_with("# GPU report: Fake GPU, ") && text.contains("| outside the jail | passed |"), "{text}");
}

#[test]
fn what_a_job_left_fails_the_report() {
    let mut script = World::small();
    script.cuda.scrub = false;
    let world = World::new(&script);
    let output = world.run(&["--no-jail", "--only", "leftovers"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report = world.report();
    assert_eq!(row(&report, "job B finds no byte of it")["verdict"], "failed");
}

#[test]
fn with_a_jail_every_row_says_so() {
    let world = World::new(&World::small());
    let output = world.run(&["--only", "confinement", "--only", "latency"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report = world.report();
    assert_eq!(report["environment"]["jail"], "yes");
    for what in ["NVML is not in the jail", "the worker's rights", "system calls are filtered"] {
        assert_eq!(row(&report, what)["verdict"], "passed", "{}", row(&report, what));
    }
    for what in ["warm job: run", "the same job, without: total"] {
        assert_eq!(row(&report, what)["place"], "jail", "{}", row(&report, what));
    }
}

#[test]
fn without_a_gpu_there_is_no_report() {
    let mut script = Script::default();
    script.cuda.init = 100;
    let world = World::new(&script);
    let output = world.run(&["--no-jail"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("there is no GPU to report on") && said.contains("no NVIDIA GPU is visible"), "{said}");
    assert!(!world.out("gpu-report.json").exists());
}
