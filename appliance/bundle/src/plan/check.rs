//! What a plan may not do, judged by its numbers alone.
//!
//! - Every view, copy and fill lies in its buffer, on whole elements, and has at least one.
//! - What a launch writes overlaps nothing else that it names; copies do not overlap themselves.
//! - Grid, block and shared memory are what a GPU can have, and their product does not overflow.

use super::{Access, Argument, Launch, Operation, Plan, PlannedBuffer, View};
use crate::limits::{
    ARGUMENTS_MAX, BLOCK_MAX, BLOCK_THREADS_MAX, BUFFER_BYTES_MAX, BUFFERS_MAX, GRID_MAX, SHARED_BYTES_MAX,
    THREADS_MAX, VRAM_GRANULE_BYTES,
};

/// What is wrong, and where below the place that the caller names.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) within: String,
    pub(super) reason: String,
}

// === impl Fault ===

impl Fault {
    pub(super) fn of(reason: impl Into<String>) -> Fault {
        Fault { within: String::new(), reason: reason.into() }
    }

    fn within(self, outer: impl Into<String>) -> Fault {
        Fault { within: outer.into() + &self.within, reason: self.reason }
    }
}

/// The sizes of buffers; what they take together, each rounded up. `limit` is the declared one.
pub(super) fn buffers(buffers: &[PlannedBuffer], limit: Option<u64>) -> Result<u64, Fault> {
    if buffers.len() > BUFFERS_MAX {
        return Err(Fault::of(format!("there are {}, at most {BUFFERS_MAX}", buffers.len())));
    }
    let mut vram_bytes: u64 = 0;
    for buffer in buffers {
        let at = |reason: String| Fault::of(reason).within(format!(".{}.elements", buffer.name));
        if buffer.elements == 0 {
            return Err(at("a buffer has at least one element".to_owned()));
        }
        let bytes = buffer.elements.checked_mul(buffer.element.bytes());
        let Some(bytes) = bytes.filter(|bytes| *bytes <= BUFFER_BYTES_MAX) else {
            let reason = format!("{} of {}, more than {BUFFER_BYTES_MAX} bytes", buffer.elements, buffer.element);
            return Err(at(reason));
        };
        if bytes != buffer.bytes {
            return Err(at(format!("{bytes} bytes, not {}", buffer.bytes)));
        }
        // Cannot overflow: 64 buffers of at most 16 GiB.
        vram_bytes += bytes.next_multiple_of(VRAM_GRANULE_BYTES);
    }
    match limit {
        Some(limit) if vram_bytes > limit => {
            Err(Fault::of(format!("they take {vram_bytes} bytes, `vram_bytes` is {limit}")))
        }
        Some(_) | None => Ok(vram_bytes),
    }
}

pub(super) fn operation(plan: &Plan, operation: &Operation) -> Result<(), Fault> {
    let buffers = &plan.buffers;
    match operation {
        Operation::Launch(launch) => {
            geometry(launch)?;
            arguments(buffers, launch)
        }
        Operation::Copy { from, to } => copy(buffers, *from, *to).map_err(|fault| fault.within(".copy")),
        Operation::Fill { view: target, pattern } => {
            let filled = view(buffers, *target).and_then(|()| {
                let element = buffers[target.buffer].element;
                let fits = u64::try_from(pattern.len()) == Ok(element.bytes());
                if fits { Ok(()) } else { Err(Fault::of(format!("its pattern is no {element}"))) }
            });
            filled.map_err(|fault| fault.within(".fill"))
        }
        Operation::Mark(mark) if *mark < plan.marks.len() => Ok(()),
        Operation::Mark(mark) => Err(Fault::of(format!("there is no mark {mark}"))),
    }
}

/// Each output is something: written, or an input.
pub(super) fn outputs(plan: &Plan) -> Result<(), Fault> {
    let mut is_written: Vec<bool> = plan.buffers.iter().map(|buffer| buffer.has_input).collect();
    let mut wrote = |view: &View| {
        if let Some(is_written) = is_written.get_mut(view.buffer) {
            *is_written = true;
        }
    };
    for operation in &plan.operations {
        match operation {
            Operation::Launch(launch) => {
                views(launch).filter(|(_, _, access)| access.writes()).for_each(|(_, view, _)| wrote(view));
            }
            Operation::Copy { to: view, .. } | Operation::Fill { view, .. } => wrote(view),
            Operation::Mark(_) => {}
        }
    }
    let silent = plan.buffers.iter().zip(is_written).find(|(buffer, is_written)| buffer.has_output && !is_written);
    match silent {
        None => Ok(()),
        Some((buffer, _)) => {
            let reason = "no step writes this output, and it is no input either";
            Err(Fault::of(reason).within(format!(".{}.output", buffer.name)))
        }
    }
}

fn geometry(launch: &Launch) -> Result<(), Fault> {
    let within = |name: &str, sizes: [u32; 3], most: [u32; 3]| {
        let bad = (0..3).find(|axis| !(1..=most[*axis]).contains(&sizes[*axis]));
        let told = bad.map(|axis| Fault::of(format!("{} is not in 1 to {}", sizes[axis], most[axis])));
        told.zip(bad).map_or(Ok(()), |(fault, axis)| Err(fault.within(format!(".{name}[{axis}]"))))
    };
    within("grid", launch.grid, GRID_MAX)?;
    within("block", launch.block, BLOCK_MAX)?;
    let product = |sizes: [u32; 3]| sizes.into_iter().try_fold(1_u64, |product, size| product.checked_mul(size.into()));
    let block = product(launch.block).filter(|threads| *threads <= BLOCK_THREADS_MAX.into());
    let Some(block) = block else {
        return Err(Fault::of(format!("a block has at most {BLOCK_THREADS_MAX} threads")).within(".block"));
    };
    let threads = product(launch.grid).and_then(|blocks| blocks.checked_mul(block));
    if threads.is_none_or(|threads| threads > THREADS_MAX) {
        return Err(Fault::of(format!("grid and block make more than {THREADS_MAX} threads")).within(".grid"));
    }
    if launch.shared_bytes > SHARED_BYTES_MAX {
        let reason = format!("{} is more than {SHARED_BYTES_MAX}", launch.shared_bytes);
        return Err(Fault::of(reason).within(".shared_bytes"));
    }
    Ok(())
}

fn views(launch: &Launch) -> impl Iterator<Item = (usize, &View, Access)> {
    launch.arguments.iter().enumerate().filter_map(|(index, argument)| match argument {
        Argument::View { view, access } => Some((index, view, *access)),
        Argument::Scalar(_) => None,
    })
}

fn arguments(buffers: &[PlannedBuffer], launch: &Launch) -> Result<(), Fault> {
    if launch.arguments.len() > ARGUMENTS_MAX {
        return Err(Fault::of(format!("more than {ARGUMENTS_MAX}")).within(".arguments"));
    }
    for (index, first, access) in views(launch) {
        view(buffers, *first).map_err(|fault| fault.within(format!(".arguments[{index}]")))?;
        for (earlier, second, other) in views(launch).take_while(|(earlier, _, _)| *earlier < index) {
            if (access.writes() || other.writes()) && overlap(*first, *second) {
                let reason = format!(
                    "it shares bytes of `{}` with arguments[{earlier}], and not both only read",
                    buffers[first.buffer].name
                );
                return Err(Fault::of(reason).within(format!(".arguments[{index}]")));
            }
        }
    }
    Ok(())
}

fn copy(buffers: &[PlannedBuffer], from: View, to: View) -> Result<(), Fault> {
    view(buffers, from).map_err(|fault| fault.within(".from"))?;
    view(buffers, to).map_err(|fault| fault.within(".to"))?;
    if from.bytes != to.bytes {
        return Err(Fault::of(format!("{} bytes do not fill {}; give `elements`", from.bytes, to.bytes)));
    }
    if buffers[from.buffer].element != buffers[to.buffer].element {
        return Err(Fault::of("the types of the two buffers differ"));
    }
    if overlap(from, to) {
        return Err(Fault::of("the two ranges overlap"));
    }
    Ok(())
}

/// In its buffer, on whole elements, not empty.
fn view(buffers: &[PlannedBuffer], view: View) -> Result<(), Fault> {
    let buffer = buffers.get(view.buffer).ok_or_else(|| Fault::of(format!("there is no buffer {}", view.buffer)))?;
    let element = buffer.element.bytes();
    if view.bytes == 0 {
        return Err(Fault::of(format!("a view of `{}` has at least one element", buffer.name)));
    }
    if !view.bytes.is_multiple_of(element) || !view.offset_bytes.is_multiple_of(element) {
        return Err(Fault::of(format!("a view of `{}` is cut through an element", buffer.name)));
    }
    let end = view.offset_bytes.checked_add(view.bytes);
    if end.is_none_or(|end| end > buffer.bytes) {
        let (offset, elements) = (view.offset_bytes / element, view.bytes / element);
        let reason =
            format!("{elements} elements from {offset} leave `{}`, which has {}", buffer.name, buffer.elements);
        return Err(Fault::of(reason));
    }
    Ok(())
}

/// Only of views that lie in their buffers.
fn overlap(a: View, b: View) -> bool {
    a.buffer == b.buffer && a.offset_bytes < b.offset_bytes + b.bytes && b.offset_bytes < a.offset_bytes + a.bytes
}
