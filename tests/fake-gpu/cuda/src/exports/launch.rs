//! Launches.

use fake_gpu_edge::{Array, Parameters};

use crate::driver::enqueue;
use crate::launch::{Request, launch};

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    _stream: usize,
    arguments: Parameters,
    _extra: Array<usize>,
) -> i32 {
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    enqueue("cuLaunchKernel", |driver, context| {
        launch(driver, context, Request { function, grid, block, shared_bytes }, arguments)
    })
}
