//! Any bytes as what a service sends to its callback listener: answers that are HTTP, and a result at most where one
//! was sent under the right token.

use std::cell::RefCell;

use appliance::container::spoken::{Booth, TOKEN};
use tokio::runtime::Runtime;

thread_local! {
    /// One listener for all inputs: opening a store costs more than an input does.
    static BOOTH: RefCell<Option<(Runtime, tempfile::TempDir, Booth)>> = const { RefCell::new(None) };
}

/// Sends `data` on one connection.
pub(crate) fn run(data: &[u8]) {
    BOOTH.with_borrow_mut(|held| {
        let (runtime, _, booth) = held.get_or_insert_with(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let dir = tempfile::tempdir().expect("a temporary directory");
            let booth = Booth::open(dir.path()).expect("a store");
            (runtime, dir, booth)
        });
        let (answers, came) = runtime.block_on(booth.hears(data));
        assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answers));
        let has_token = data.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
        // The path may be written with percent signs.
        assert!(!came || has_token || data.contains(&b'%'), "a result came under no token");
    });
}
