//! Any bytes as a service's answer: a status with a bounded body, or none.

/// The bound on a body that `answered` keeps to.
const BODY_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Answers one request with `data`.
pub(crate) fn run(data: &[u8]) {
    let answer = RUNTIME.with(|runtime| runtime.block_on(appliance::container::spoken::answered(data)));
    if let Some((status, bytes)) = answer {
        assert!((100..1000).contains(&status) && bytes <= BODY_BYTES_MAX);
    }
}
