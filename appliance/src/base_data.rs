//! What the rig says of itself on chain: a JSON document with the four fields that schedulers are known to read, and
//! little more. Source: protocol §3.2.

use serde_json::{Value, json};

/// The document for a machine whose `/proc/cpuinfo` and `/proc/meminfo` read so. `gpu` is absent until there is one.
pub fn document(cpuinfo: &str, meminfo: &str) -> Vec<u8> {
    let field = |text: &str, name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let ram_kib: Option<u64> = field(meminfo, "MemTotal").and_then(|text| text.split_whitespace().next()?.parse().ok());
    let ram: Value = ram_kib.map_or_else(|| "N/A".into(), |kib| kib.div_ceil(1 << 20).into());
    let document = json!({
        "cpu": { "model": field(cpuinfo, "model name").unwrap_or_else(|| "N/A".into()), "cores": cores },
        "gpu": { "model": "N/A", "count": 0, "totalVRAM": { "value": "N/A", "unit": "GB" } },
        "ram": { "total": { "value": ram, "unit": "GB" } },
        "version": env!("CARGO_PKG_VERSION"),
    });
    document.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_fields_that_schedulers_read_are_there() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU\nprocessor\t: 1\nmodel name\t: A CPU\n";
        let document: Value = serde_json::from_slice(&document(cpuinfo, "MemTotal:  16384000 kB\n")).expect("JSON");
        assert_eq!(document["cpu"]["model"], "A CPU");
        assert_eq!(document["cpu"]["cores"], 2);
        assert_eq!(document["ram"]["total"]["value"], 16);
        assert_eq!(document["gpu"]["model"], "N/A");
        assert_eq!(document["gpu"]["totalVRAM"]["value"], "N/A");
    }

    #[test]
    fn a_machine_that_says_nothing_still_gives_a_document() {
        let document: Value = serde_json::from_slice(&document("", "")).expect("JSON");
        assert_eq!(document["ram"]["total"]["value"], "N/A");
    }
}
