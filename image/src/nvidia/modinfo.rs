//! What a kernel module says of itself: the texts in its section `.modinfo`.

use object::{Object as _, ObjectSection as _};

/// The value of `key` in the ELF file `module`; none if it is no module or says nothing of it.
pub(super) fn value(module: &[u8], key: &str) -> Option<String> {
    let file = object::File::parse(module).ok()?;
    let section = file.section_by_name(".modinfo")?;
    let texts = section.data().ok()?;
    let value =
        texts.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(key.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_says_nothing() {
        let own = std::fs::read(std::env::current_exe().expect("a program")).expect("read");
        for bytes in [b"".as_slice(), b"\x7fELF", b"vermagic=1", &own] {
            assert_eq!(value(bytes, "vermagic"), None);
        }
    }
}
