//! Jobs that run to their end.

use cuda::messages::Done;
use fake_gpu_script::{Gpu, Script};

use crate::bundles;
use crate::world::{Files, World, file, job, ran};

/// `rows` by `columns` small whole numbers, whose products and sums are exact.
fn matrix(rows: usize, columns: usize, seed: usize) -> Vec<f32> {
    let number = |index: usize| f32::from(u8::try_from((index * 7 + seed) % 11).expect("small")) - 5.0;
    (0..rows * columns).map(number).collect()
}

fn product(a: &[f32], b: &[f32], k: usize, n: usize) -> Vec<f32> {
    let cell = |row: usize, column: usize| (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
    (0..a.len() / k).flat_map(|row| (0..n).map(move |column| (row, column))).map(|(r, c)| cell(r, c)).collect()
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn a_product_of_matrices_is_what_it_should_be() {
    let world = World::healthy();
    let archive = bundles::gemm();
    for (m, n, k) in [(1, 1, 1), (64, 64, 64), (65, 33, 17)] {
        let (a, b) = (matrix(m, k, 1), matrix(k, n, 2));
        let files = Files::new(&archive, &[bytes(&a), bytes(&b)].concat(), m * n * 4);
        let size = |size: usize| u32::try_from(size).expect("small");
        let job = job(&archive, "gemm_f32", &[("m", size(m)), ("n", size(n)), ("k", size(k))]);
        let (done, code) = world.perform(&job, &files);
        let ran = ran(done);
        assert_eq!(files.output(), bytes(&product(&a, &b, k, n)), "{m} by {n} by {k}");
        assert_eq!((ran.marks_ms.len(), ran.scanned_bytes, ran.dirty_bytes, code), (2, 0, 0, 0));
        assert!(ran.marks_ms[0] <= ran.marks_ms[1], "{:?}", ran.marks_ms);
        assert!(ran.timings.first_launch_us > 0 && ran.timings.first_launch_us <= ran.timings.run_us);
    }
}

#[test]
fn ptx_runs_as_the_machine_code_that_came_with_the_job() {
    let world = World::healthy();
    let archive = bundles::gemm_ptx();
    let mut files = Files::new(&archive, &bytes(&[3.0, 5.0]), 4);
    files.cubins.push(file(&bundles::gemm_cubin()));
    let (done, _) = world.perform(&job(&archive, "gemm_f32", &[("m", 1), ("n", 1), ("k", 1)]), &files);
    ran(done);
    assert_eq!(files.output(), bytes(&[15.0]));
}

#[test]
fn fills_and_copies_of_more_than_a_piece_arrive_whole() {
    let world = World::healthy();
    let archive = bundles::fills();
    // 24 MiB and a little: three pieces and a part, in each direction.
    for (n, steps) in [(2, 1), (3 << 20 | 5, 3000)] {
        let elements = usize::try_from(n).expect("small");
        let input: Vec<u8> = (0..elements * 8).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let files = Files::new(&archive, &input, elements * 8);
        let (done, _) = world.perform(&job(&archive, "fills", &[("n", n), ("steps", steps)]), &files);
        ran(done);
        let copied = elements / 2 * 8;
        let filled = 1.5_f64.to_le_bytes().repeat(elements - elements / 2);
        assert!(files.output() == [&input[..copied], &filled].concat(), "{n} elements after {steps} steps");
    }
}

#[test]
fn a_scan_counts_what_others_left() {
    let check = |scrub: bool| {
        let mut script = Script { gpus: vec![Gpu { vram_bytes: 96 << 20, ..Gpu::default() }], ..Script::default() };
        script.cuda.scrub = scrub;
        let world = World::new(&script);
        let archive = bundles::fills();
        let files = Files::new(&archive, &[1; 16], 16);
        let job = cuda::messages::Job { scan: true, ..job(&archive, "fills", &[("n", 2), ("steps", 1)]) };
        let (done, _) = world.perform(&job, &files);
        let ran = ran(done);
        assert!(ran.scanned_bytes >= 16 << 20, "{} bytes scanned", ran.scanned_bytes);
        (ran.scanned_bytes, ran.dirty_bytes)
    };
    assert_eq!(check(true).1, 0);
    let (scanned, dirty) = check(false);
    assert_eq!(dirty, scanned);
}

#[test]
fn a_second_job_is_never_done() {
    let world = World::healthy();
    let archive = bundles::gemm();
    let (first, second) = (Files::new(&archive, &bytes(&[2.0, 3.0]), 4), Files::new(&archive, &bytes(&[1.0, 1.0]), 4));
    let job = job(&archive, "gemm_f32", &[("m", 1), ("n", 1), ("k", 1)]);
    let (worker, _) = world.warm();
    first.send(&worker, &job);
    // Whether it still arrives or not.
    let _ = second.offer(&worker, &job);
    ran(worker.receive::<Done>());
    assert!(worker.is_silent(), "it says something more");
    assert_eq!(worker.end(), 0);
    assert_eq!((first.output(), second.output()), (bytes(&[6.0]), vec![0xee; 4]));
}

#[test]
fn a_worker_that_is_told_to_go_goes() {
    let (worker, warm) = World::healthy().warm();
    assert_eq!((warm.device.as_str(), warm.compute_capability), ("Fake GPU", (8, 9)));
    assert_eq!(warm.driver.to_string(), "12.8");
    assert!(warm.vram_free_bytes > 0 && warm.vram_free_bytes <= warm.vram_total_bytes);
    let cuda_said_nothing = rustix::net::shutdown(&worker.socket, rustix::net::Shutdown::Write);
    cuda_said_nothing.expect("close our end");
    assert!(worker.is_silent());
    assert_eq!(worker.end(), 0);
}
