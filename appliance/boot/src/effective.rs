//! The settings that the provider starts with: the owner's, and the image's own where the owner said nothing.
//!
//! The image knows what a rig is that nobody logs in to: it has a screen, a page on the local network, and a voice
//! there. An owner who does not want one of them says so.

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

/// Where the card is shown.
const CONSOLE: &str = "/dev/tty1";

/// Where the page is served.
const LISTEN: &str = "0.0.0.0:80";

/// `text` with the image's defaults. Errors: it is no TOML.
pub fn effective(text: &str) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    default(&mut document, "places", "console", value(CONSOLE), |_| true);
    default(&mut document, "lan", "announce", value(true), |_| true);
    let is_wanted = |page: &dyn TableLike| page.get("enabled").and_then(Item::as_bool) != Some(false);
    default(&mut document, "status_page", "listen", value(LISTEN), is_wanted);
    Ok(document.to_string())
}

/// Writes `key` into `table` if it is not there and `is_wanted`.
fn default(document: &mut DocumentMut, table: &str, key: &str, item: Item, is_wanted: fn(&dyn TableLike) -> bool) {
    let table = document.entry(table).or_insert_with(|| Item::Table(Table::new()));
    if let Some(table) = table.as_table_like_mut()
        && !table.contains_key(key)
        && is_wanted(table)
    {
        table.insert(key, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_owner_said_holds_and_the_rest_is_the_images() {
        let check = |text: &str, expected: [&str; 3]| {
            let table: DocumentMut = effective(text).expect(text).parse().expect("TOML");
            let shown = |table_name: &str, key: &str| {
                table[table_name].get(key).map_or_else(String::new, |value| value.to_string().trim().replace('"', ""))
            };
            let found = [shown("places", "console"), shown("status_page", "listen"), shown("lan", "announce")];
            assert_eq!(found, expected, "{text}");
        };
        check("", [CONSOLE, LISTEN, "true"]);
        check("[owner]\nname = \"a\" # b\n\n[[source]]\nx = 1\n", [CONSOLE, LISTEN, "true"]);
        check("[status_page]\nenabled = false\n", [CONSOLE, "", "true"]);
        check("[status_page]\nenabled = true\n", [CONSOLE, LISTEN, "true"]);
        check("[status_page]\nlisten = \"[::]:8080\"\r\n", [CONSOLE, "[::]:8080", "true"]);
        check("lan = { announce = false }\nplaces.console = \"/dev/ttyS0\"\n", ["/dev/ttyS0", LISTEN, "false"]);
        check("lan.interface = \"eno1\"\n", [CONSOLE, LISTEN, "true"]);
        assert!(effective("[owner").is_err());
        assert!(effective("places = 1\n").expect("TOML").starts_with("places = 1\n"));
    }
}
