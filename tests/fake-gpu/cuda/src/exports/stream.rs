//! Streams and events. Work is done when it is asked for, so a stream is a name, and an event's time is the call's.

use std::time::Instant;

use fake_gpu_edge::Out;

use crate::code::{Answer, Code};
use crate::driver::{Driver, Event, beside, enqueue, query, wait};

/// The default stream, the legacy one and the one per thread have no handle that was created.
const BUILT_IN_STREAMS: usize = 2;
/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

fn known(driver: &Driver, stream: usize) -> Answer {
    if stream <= BUILT_IN_STREAMS || driver.streams.contains_key(&stream) { Ok(()) } else { Err(Code::INVALID_HANDLE) }
}

fn create(name: &str, stream: Out<usize>) -> i32 {
    beside(name, |driver, context| {
        let handle = driver.fresh_handle();
        driver.streams.insert(handle, context);
        stream.set(handle).ok_or(Code::INVALID_VALUE)
    })
}

fn elapsed(name: &str, milliseconds: Out<f32>, begin: usize, end: usize) -> i32 {
    beside(name, |driver, _| {
        let time = |event: usize| {
            let event = driver.events.get(&event).filter(|event| event.timing).ok_or(Code::INVALID_HANDLE)?;
            event.recorded.ok_or(Code::INVALID_HANDLE)
        };
        let (begin, end) = (time(begin)?, time(end)?);
        let forward = end.saturating_duration_since(begin).as_secs_f32();
        let backward = begin.saturating_duration_since(end).as_secs_f32();
        milliseconds.set((forward - backward) * 1e3).ok_or(Code::INVALID_VALUE)
    })
}

fn record(driver: &mut Driver, event: usize, stream: usize) -> Answer {
    known(driver, stream)?;
    driver.events.get_mut(&event).ok_or(Code::INVALID_HANDLE)?.recorded = Some(Instant::now());
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: Out<usize>, _flags: u32) -> i32 {
    create("cuStreamCreate", stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(stream: Out<usize>, _flags: u32, _priority: i32) -> i32 {
    create("cuStreamCreateWithPriority", stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> i32 {
    beside("cuStreamDestroy_v2", |driver, _| driver.streams.remove(&stream).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> i32 {
    wait("cuStreamSynchronize", |driver, _| known(driver, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(_stream: usize) -> i32 {
    query("cuStreamQuery")
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, _event: usize, _flags: u32) -> i32 {
    enqueue("cuStreamWaitEvent", |driver, _| known(driver, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: usize, status: Out<i32>) -> i32 {
    beside("cuStreamIsCapturing", |driver, _| {
        known(driver, stream)?;
        status.set(0).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: Out<usize>, flags: u32) -> i32 {
    beside("cuEventCreate", |driver, _| {
        let handle = driver.fresh_handle();
        driver.events.insert(handle, Event { timing: flags & DISABLE_TIMING == 0, recorded: None });
        event.set(handle).ok_or(Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> i32 {
    beside("cuEventDestroy_v2", |driver, _| driver.events.remove(&event).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> i32 {
    enqueue("cuEventRecord", |driver, _| record(driver, event, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecordWithFlags(event: usize, stream: usize, _flags: u32) -> i32 {
    enqueue("cuEventRecordWithFlags", |driver, _| record(driver, event, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> i32 {
    wait("cuEventSynchronize", |driver, _| driver.events.get(&event).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(_event: usize) -> i32 {
    query("cuEventQuery")
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, begin: usize, end: usize) -> i32 {
    elapsed("cuEventElapsedTime", milliseconds, begin, end)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, begin: usize, end: usize) -> i32 {
    elapsed("cuEventElapsedTime_v2", milliseconds, begin, end)
}
