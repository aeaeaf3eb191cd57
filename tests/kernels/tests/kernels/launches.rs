//! What a launch honours and what it refuses.

use kernels::{Argument, Kind, LaunchError, launch, names, parameters};

use crate::device::noise;

/// A launch that fills a grid of several blocks, and for each of its buffers how many elements it needs.
struct Case {
    kernel: &'static str,
    grid: [u32; 3],
    block: [u32; 3],
    elements: &'static [usize],
    numbers: &'static [u32],
}

const HALF: u32 = 0x3f00_0000;

/// One case per kernel. Sizes are no multiples of a block.
const CASES: [Case; 15] = [
    case("gemm_f32", [2, 2], [16, 16], &[70 * 5, 5 * 66, 70 * 66], &[70, 66, 5]),
    case("gemm_f16", [2, 2], [256, 1], &[130 * 5, 5 * 140, 130 * 140], &[130, 140, 5]),
    case("trace", [2, 2], [8, 8], &[13 * 11 * 3], &[13, 11, 0, 1]),
    case("tonemap", [2, 2], [8, 8], &[13 * 11 * 3, 13 * 11 * 3], &[13, 11, 2]),
    case("forces", [2, 1], [256, 1], &[300 * 4, 300 * 3], &[300, HALF]),
    case("integrate", [2, 1], [256, 1], &[300 * 4, 300 * 3, 300 * 3], &[300, HALF]),
    case("forward_hidden", [2, 2], [16, 16], &[17 * 3, 3 * 20, 20, 17 * 20], &[17, 3, 20]),
    case("forward_output", [17, 1], [32, 1], &[17 * 20, 20 * 4, 4, 17 * 4], &[17, 20, 4]),
    case("output_gradient", [2, 1], [256, 1], &[40 * 8, 40, 40 * 8, 1], &[40, 8]),
    case("backward_output", [2, 2], [16, 16], &[9 * 20, 9 * 18, 20 * 18, 18], &[9, 20, 18]),
    case("backward_hidden", [2, 2], [16, 16], &[17 * 4, 20 * 4, 17 * 20, 17 * 20], &[17, 20, 4]),
    case("backward_input", [2, 2], [16, 16], &[9 * 20, 9 * 18, 20 * 18, 18], &[9, 20, 18]),
    case("bench_fma_f32", [1, 1], [256, 1], &[256], &[3]),
    case("bench_mma_f16", [1, 1], [256, 1], &[256], &[3]),
    case("sgd", [2, 1], [256, 1], &[300, 300], &[300, HALF]),
];

const fn case(
    kernel: &'static str,
    [x, y]: [u32; 2],
    [w, h]: [u32; 2],
    elements: &'static [usize],
    numbers: &'static [u32],
) -> Case {
    Case { kernel, grid: [x, y, 1], block: [w, h, 1], elements, numbers }
}

// === impl Case ===

impl Case {
    /// Numbers that are never 0 in every buffer.
    fn memory(&self) -> Vec<Vec<u8>> {
        let mut buffers: Vec<Vec<u8>> = Vec::new();
        for (parameter, &count) in parameters(self.kernel).unwrap().iter().zip(self.elements) {
            let Kind::Pointer { element_bytes, .. } = parameter.kind else { panic!("buffers come first") };
            let bytes = count * usize::try_from(element_bytes).unwrap();
            let floats = noise(9, bytes.div_ceil(4)).into_iter().map(|value| value.abs() + 0.25);
            let mut buffer: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
            buffer.truncate(bytes);
            buffers.push(buffer);
        }
        buffers
    }

    fn start(&self, grid: [u32; 3], block: [u32; 3], memory: &mut [Vec<u8>]) -> Result<(), LaunchError> {
        let numbers: Vec<[u8; 4]> = self.numbers.iter().map(|number| number.to_le_bytes()).collect();
        let buffers = memory.iter_mut().map(|buffer| Argument::Buffer(buffer));
        let mut arguments: Vec<_> = buffers.chain(numbers.iter().map(|n| Argument::Scalar(n))).collect();
        launch(self.kernel, grid, block, &mut arguments)
    }

    /// The memory after a launch.
    fn after(&self, grid: [u32; 3], block: [u32; 3]) -> Vec<Vec<u8>> {
        let mut memory = self.memory();
        self.start(grid, block, &mut memory).unwrap();
        memory
    }
}

#[test]
fn every_kernel_has_a_case_here() {
    let mut covered: Vec<&str> = CASES.iter().map(|case| case.kernel).collect();
    covered.sort_unstable();
    assert_eq!(covered, names());
}

#[test]
fn a_kernel_writes_its_outputs_and_nothing_else() {
    for case in CASES {
        let (before, after) = (case.memory(), case.after(case.grid, case.block));
        for ((parameter, before), after) in parameters(case.kernel).unwrap().iter().zip(before).zip(after) {
            let Kind::Pointer { writes, .. } = parameter.kind else { panic!("buffers come first") };
            assert_eq!(before != after, writes, "{}: {}", case.kernel, parameter.name);
        }
    }
}

#[test]
fn a_smaller_grid_leaves_a_part_undone() {
    for case in CASES {
        let right = case.after(case.grid, case.block);
        for axis in (0..2).filter(|&axis| case.grid[axis] > 1) {
            let mut grid = case.grid;
            grid[axis] -= 1;
            assert_ne!(case.after(grid, case.block), right, "{} with grid {grid:?}", case.kernel);
        }
        let larger = case.grid.map(|side| side + 1);
        assert_eq!(case.after(larger, case.block), right, "{} with grid {larger:?}", case.kernel);
    }
}

#[test]
fn a_smaller_block_leaves_a_part_undone() {
    // A block of `forward_output` shares a row out among as many threads as it has.
    for case in CASES.iter().filter(|case| case.kernel != "forward_output") {
        let right = case.after(case.grid, case.block);
        for axis in (0..2).filter(|&axis| case.block[axis] > 1) {
            let mut block = case.block;
            block[axis] /= 2;
            assert_ne!(case.after(case.grid, block), right, "{} with block {block:?}", case.kernel);
        }
    }
}

#[test]
fn an_access_outside_a_buffer_is_an_illegal_address() {
    for case in CASES {
        for (position, parameter) in parameters(case.kernel).unwrap().iter().enumerate().take(case.elements.len()) {
            let mut memory = case.memory();
            // One byte and four, since `integrate` has no use for the last body's mass.
            let short = memory[position].len().saturating_sub(5);
            memory[position].truncate(short);
            let ended = case.start(case.grid, case.block, &mut memory);
            assert_eq!(ended, Err(LaunchError::IllegalAddress { kernel: case.kernel }), "{}", parameter.name);
        }
    }
}

#[test]
fn an_unknown_kernel_is_refused() {
    for name in ["", "gemm", "gemm_f32 ", "GEMM_F32", "fault_hang"] {
        let ended = launch(name, [1; 3], [1; 3], &mut []);
        assert_eq!(ended, Err(LaunchError::UnknownKernel { name: name.to_owned() }));
        assert_eq!(parameters(name), None);
    }
}

#[test]
fn a_shape_that_no_driver_starts_is_refused() {
    let case = &CASES[0];
    let shapes = [
        ([0, 2, 1], [16, 16, 1]),
        ([2, 2, 0], [16, 16, 1]),
        ([2, 65_536, 1], [16, 16, 1]),
        ([0x8000_0000, 1, 1], [16, 16, 1]),
        ([2, 2, 1], [16, 0, 1]),
        ([2, 2, 1], [16, 17, 1]),
        ([2, 2, 1], [65_536, 65_536, 1]),
    ];
    for (grid, block) in shapes {
        let ended = case.start(grid, block, &mut case.memory());
        assert_eq!(ended, Err(LaunchError::WrongShape { kernel: "gemm_f32", grid, block }));
    }
}

#[test]
fn arguments_that_are_not_the_signatures_are_refused() {
    let number = 1_u32.to_le_bytes();
    let check = |position: usize, arguments: &mut [Argument<'_>]| {
        let ended = launch("sgd", [1; 3], [1; 3], arguments);
        assert_eq!(ended, Err(LaunchError::WrongArgument { kernel: "sgd", position }));
    };
    let (w, g) = (&mut [0; 8][..], &mut [0; 8][..]);
    check(0, &mut []);
    check(0, &mut [Argument::Scalar(&number)]);
    check(3, &mut [Argument::Buffer(w), Argument::Buffer(g), Argument::Scalar(&number)]);
    check(2, &mut [Argument::Buffer(w), Argument::Buffer(g), Argument::Scalar(&[0; 8]), Argument::Scalar(&number)]);
    let all = [(); 3].map(|()| Argument::Scalar(&number));
    let mut five: Vec<Argument<'_>> = [Argument::Buffer(w), Argument::Buffer(g)].into_iter().chain(all).collect();
    check(4, &mut five);
}

#[test]
fn the_benchmark_s_chains_come_out_as_they_are_computed_one_by_one() {
    let case = |kernel, rounds: u32| {
        let mut out = [0; 1024];
        let rounds = rounds.to_le_bytes();
        launch(kernel, [2, 1, 1], [256, 1, 1], &mut [Argument::Buffer(&mut out), Argument::Scalar(&rounds)]).unwrap();
        out.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect::<Vec<_>>()
    };
    let chain = |start: f32, operations| (0..operations).fold(start, |value: f32, _| value.mul_add(0.5, 1.0));
    for rounds in [0_u32, 1, 2, 9] {
        let (fma, mma) = (case("bench_fma_f32", rounds), case("bench_mma_f16", rounds));
        for (lane, (fma, mma)) in (0_u16..).zip(fma.into_iter().zip(mma)) {
            let sum: f32 = (0_u16..8).map(|number| chain(f32::from(lane + number), rounds * 16)).sum();
            assert_eq!(fma.to_bits(), sum.to_bits(), "lane {lane} after {rounds} rounds");
            let sum: f32 = (0..32).map(|_| (0..rounds * 8).fold(f32::from(lane), |value, _| value + 1.0)).sum();
            assert_eq!(mma.to_bits(), sum.to_bits(), "lane {lane} after {rounds} rounds");
        }
    }
    assert_eq!(case("bench_fma_f32", 512), [16.0; 256]);
}
