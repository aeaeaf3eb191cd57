//! Which GPUs a process sees, and what they say about themselves.

use fake_gpu_script::Gpu;

/// The highest attribute that drivers know; larger numbers are refused.
const ATTRIBUTE_MAX: i32 = 160;

/// The GPUs that `CUDA_VISIBLE_DEVICES` shows, in its order: indices or beginnings of UUIDs, separated by commas. What
/// follows an entry that fits no GPU, or fits one again, is dropped. Without the variable all are shown.
pub(crate) fn visible(gpus: &[Gpu], variable: Option<&str>) -> Vec<Gpu> {
    let Some(variable) = variable else { return gpus.to_vec() };
    let mut shown: Vec<Gpu> = Vec::new();
    for entry in variable.split(',').map(str::trim) {
        let by_index = entry.parse::<usize>().ok().and_then(|index| gpus.get(index));
        let by_uuid = || gpus.iter().find(|gpu| entry.starts_with("GPU-") && gpu.uuid.starts_with(entry));
        match by_index.or_else(by_uuid) {
            Some(gpu) if !shown.contains(gpu) => shown.push(gpu.clone()),
            Some(_) | None => break,
        }
    }
    shown
}

/// The most dynamic shared memory that a block may ask for, bytes. Source: CUDA C++ programming guide, table of
/// technical specifications by compute capability.
pub(crate) fn shared_bytes_max(gpu: &Gpu) -> u32 {
    match gpu.arch() {
        0..=69 => 49_152,
        70..=74 => 98_304,
        75..=79 => 65_536,
        80 | 87 => 166_912,
        81..=89 | 120..=129 => 101_376,
        90..=119 | 130.. => 232_448,
    }
}

/// A GPU's attribute by its number in `CUdevice_attribute`; `None` if there is no such attribute. Those without a meaning
/// here are 0.
pub(crate) fn attribute(gpu: &Gpu, attribute: i32) -> Option<i32> {
    let [major, minor] = gpu.compute_capability;
    let (bus, device) = pci(gpu);
    let value = match attribute {
        1..=3 => 1024,                      // threads of a block; block in x and y
        4 => 64,                            // block in z
        5 => 0x7fff_ffff,                   // grid in x
        6 | 7 => 65_535,                    // grid in y and z
        8 => 49_152,                        // shared memory of a block
        9 => 65_536,                        // constant memory
        10 => 32,                           // threads of a warp
        11 => 0x7fff_ffff,                  // pitch of copies
        12 | 82 => 65_536,                  // registers of a block, of a multiprocessor
        13 => gpu.max_clocks_mhz[1] * 1000, // kHz
        14 => 512,                          // alignment of textures
        16 => gpu.multiprocessors,
        19 | 31 | 41 => 1, // maps host memory, concurrent kernels, one address space
        32 => u32::from(gpu.ecc.is_some()),
        33 => bus,
        34 => device,
        36 => gpu.max_clocks_mhz[2] * 1000, // kHz
        37 => 384,                          // bits of the memory bus
        38 => 32 << 20,                     // L2 cache
        39 => 1536,                         // threads of a multiprocessor
        40 => 2,                            // copy engines
        75 => major,
        76 => minor,
        81 => shared_bytes_max(gpu) + 1024, // shared memory of a multiprocessor
        97 => shared_bytes_max(gpu),
        0.. if attribute <= ATTRIBUTE_MAX => 0,
        _ => return None,
    };
    i32::try_from(value).ok()
}

/// Bus and device of the address `DOMAIN:BUS:DEVICE.0`; 0 where it is not one.
fn pci(gpu: &Gpu) -> (u32, u32) {
    let mut parts = gpu.pci_bus_id.split([':', '.']).skip(1).map(|part| u32::from_str_radix(part, 16).unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_shows_gpus_in_its_order_up_to_the_first_that_is_none() {
        let gpus: Vec<Gpu> = (0..3).map(Gpu::numbered).collect();
        let check = |variable: Option<&str>, expected: &[usize]| {
            let shown: Vec<String> = visible(&gpus, variable).into_iter().map(|gpu| gpu.uuid).collect();
            let expected: Vec<String> = expected.iter().map(|index| gpus[*index].uuid.clone()).collect();
            assert_eq!(shown, expected, "{variable:?}");
        };
        check(None, &[0, 1, 2]);
        check(Some(""), &[]);
        check(Some("2,0"), &[2, 0]);
        check(Some("0,7,1"), &[0]);
        check(Some("1,1"), &[1]);
        check(Some(&gpus[1].uuid), &[1]);
        check(Some("GPU-0fa4e000-0000-4000-8000-000000000002, 0"), &[2, 0]);
        check(Some("GPU-ffff"), &[]);
        check(Some("MIG-0fa4e000"), &[]);
    }

    #[test]
    fn attributes_are_those_of_the_gpu() {
        let gpu = Gpu::numbered(4);
        let check = |number, expected| assert_eq!(attribute(&gpu, number), expected, "attribute {number}");
        check(75, Some(8));
        check(76, Some(9));
        check(33, Some(5));
        check(97, Some(101_376));
        check(115, Some(0));
        check(-1, None);
        check(161, None);
    }
}
