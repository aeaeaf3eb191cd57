//! `rig gpu` and `rig bench`, against a socket that answers like a provider.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::stage::{Ended, Stage};

/// Runs `rig` with a run directory in which a provider answers as `answer` says; returns the questions too.
fn asked(arguments: &[&str], answer: impl Fn(&Value) -> Value + Send + 'static) -> (Ended, Vec<Value>) {
    let stage = Stage::new();
    let socket = stage.path("provider.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (questions, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let (heard, over) = (questions.clone(), is_over.clone());
    let provider = thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if over.load(Ordering::SeqCst) {
                return;
            }
            let mut question = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut question).unwrap();
            let question = serde_json::from_str(&question).unwrap();
            writeln!(stream, "{}", answer(&question)).unwrap();
            heard.lock().unwrap().push(question);
        }
    });
    let ended = stage.rig(&[arguments, &["--rig", stage.path("").to_str().unwrap()]].concat());
    is_over.store(true, Ordering::SeqCst);
    drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    provider.join().unwrap();
    let questions = questions.lock().unwrap().clone();
    (ended, questions)
}

fn gpu(index: u32, state: &Value, bench: &Value) -> Value {
    json!({
        "gpu": {
            "index": index, "uuid": format!("GPU-{index}"), "model": "NVIDIA L4", "vram_bytes": 24_152_899_584_u64,
            "compute_capability": { "major": 8, "minor": 9 },
            "pcie": { "generation": 1, "generation_max": 4, "width": 16, "width_max": 16 },
            "power": { "limit_mw": 72_000 },
        },
        "state": state,
        "warm": { "load_us": 1, "init_us": 2, "context_us": 3 },
        "sample": {
            "gpu_percent": 37, "memory_used_bytes": 1_500_000_000, "power_mw": 31_550, "gpu_c": 61, "memory_c": 70,
            "clocks": { "sm_mhz": 2040, "memory_mhz": 6251 }, "throttle": ["power-cap"], "fans_percent": [30, 32],
        },
        "bench": bench,
    })
}

fn bench() -> Value {
    json!({
        "at_unix": 1_795_257_632, "driver": "570.124.06", "sm_mhz": 2040, "memory_mhz": 6251,
        "bandwidth": { "device_copy_gb_s": 251.4, "host_to_device_gb_s": 12.04, "device_to_host_gb_s": 13.1,
                       "copied_bytes": 268_435_456 },
        "fp32": { "tflops": 28.51 }, "fp16": { "unknown": "no compiler" },
    })
}

fn machine(gpus: &[Value]) -> Value {
    json!({ "driver": "570.124.06", "cuda": "12.8", "compiler": "12.9", "why": null, "gpus": gpus,
            "from_the_future": [1] })
}

fn assert_says(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for words in words {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains('\x1b'), "colours without a terminal: {}", ended.stdout);
}

#[test]
fn a_gpu_is_shown_with_all_that_its_owner_asks_about() {
    let answer = machine(&[gpu(0, &json!({ "state": "offered" }), &Value::Null)]);
    let given = answer.clone();
    let (ended, questions) = asked(&["gpu"], move |_| given.clone());
    assert_eq!(questions, [json!({ "ask": "gpus", "retry": false })]);
    let rows = [
        "570.124.06, for CUDA up to 12.8",
        "nvJitLink 12.9",
        "NVIDIA L4",
        "offered: it takes work",
        "8.9",
        "24.1 GB, 1.5 GB used",
        "generation 1 x16, at most 4 x16",
        "61 °C, memory 70 °C",
        "31.5 W of 72.0 W",
        "37 %",
        "2040 MHz, memory 6251 MHz",
        "its power limit",
        "30 %, 32 %",
        "warm worker         yes",
    ];
    assert_says(&ended, &rows);
    assert!(!ended.stdout.contains("to do"), "{}", ended.stdout);
    let given = answer.clone();
    let (ended, _) = asked(&["gpu", "--json"], move |_| given.clone());
    assert_eq!(ended.json(), answer);
}

#[test]
fn a_gpu_that_takes_no_work_says_why_and_what_to_do() {
    let withdrawn = json!({ "state": "withdrawn", "why": "Xid 79", "remedy": "power-cycle" });
    let answer = machine(&[gpu(0, &withdrawn, &Value::Null)]);
    let (ended, _) = asked(&["gpu"], move |_| answer.clone());
    assert_says(&ended, &["withdrawn: Xid 79", "switch the machine off, wait a minute, and switch it on"]);
}

#[test]
fn a_machine_without_a_gpu_says_so() {
    let none = json!({ "driver": null, "cuda": null, "compiler": null, "why": "there is no libcuda.so.1", "gpus": [] });
    for (command, words) in [
        ("gpu", ["No bundle runs here: there is no libcuda.so.1.", "install libnvJitLink"]),
        ("bench", ["There is no GPU: there is no libcuda.so.1.", ""]),
    ] {
        let answer = none.clone();
        assert_says(&asked(&[command], move |_| answer.clone()).0, &words);
    }
    let (ended, questions) = asked(&["bench", "--run"], move |_| none.clone());
    assert_eq!((ended.code, questions.len()), (Some(1), 1), "{ended:?}");
    assert!(ended.stderr.contains("there is no GPU to measure: there is no libcuda.so.1"), "{ended:?}");
}

#[test]
fn a_retry_is_asked_for() {
    let answer = machine(&[gpu(0, &json!({ "state": "gave-up", "why": "wrong bytes" }), &Value::Null)]);
    let (ended, questions) = asked(&["gpu", "retry"], move |_| answer.clone());
    assert_eq!(questions, [json!({ "ask": "gpus", "retry": true })]);
    assert_says(&ended, &["given up: wrong bytes", "are tried again"]);
}

#[test]
fn figures_are_shown_with_their_date() {
    let offered = json!({ "state": "offered" });
    let answer = machine(&[gpu(0, &offered, &bench()), gpu(1, &offered, &Value::Null)]);
    let given = answer.clone();
    let (ended, questions) = asked(&["bench"], move |_| given.clone());
    assert_eq!(questions, [json!({ "ask": "gpus", "retry": false })]);
    let rows = [
        "2026-11-21 10:40 UTC",
        "2040/6251 MHz",
        "251 GB/s",
        "12.0 GB/s",
        "28.5 TFLOP/s",
        "GPU 0 NVIDIA L4 has no FP16: no compiler",
        "GPU 1 NVIDIA L4  never",
    ];
    assert_says(&ended, &rows);
    let given = answer.clone();
    let (ended, _) = asked(&["bench", "--json"], move |_| given.clone());
    assert_eq!(ended.json(), answer);
}

#[test]
fn every_gpu_is_measured_and_one_that_cannot_be_does_not_keep_the_others_from_it() {
    let offered = json!({ "state": "offered" });
    let answer = machine(&[0, 1].map(|index| gpu(index, &offered, &bench())));
    let measure = |gpu: &str| json!({ "ask": "measure", "gpu": gpu });
    let list = json!({ "ask": "gpus", "retry": false });
    let given = answer.clone();
    let (ended, questions) = asked(&["bench", "--run"], move |question| match question["ask"].as_str() {
        Some("measure") => json!({ "gpu": question["gpu"], "bench": bench() }),
        _ => given.clone(),
    });
    assert_eq!(questions, [list.clone(), measure("GPU-0"), measure("GPU-1"), list.clone()]);
    assert_says(&ended, &["28.5 TFLOP/s"]);
    assert!(ended.stderr.contains("GPU 1 NVIDIA L4 is measured."), "{ended:?}");

    let busy = move |question: &Value| match question["gpu"].as_str() {
        Some("GPU-0") => json!({ "error": "every GPU has been busy for 2000 ms" }),
        Some(_) => json!({ "gpu": question["gpu"], "bench": bench() }),
        None => answer.clone(),
    };
    let (ended, questions) = asked(&["bench", "--run", "--json"], busy);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(questions, [list, measure("GPU-0"), measure("GPU-1")]);
    let failure: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(failure["error"], "the rig refuses: every GPU has been busy for 2000 ms");
    assert!(failure["next"].as_str().unwrap().contains("rig gpu"), "{failure}");
}
