//! The report as people read it: one Markdown table for each section.

use std::fmt::Write as _;

use crate::figures::shown;
use crate::report::{Environment, Ratio, Report, Row, Section};

/// The whole report.
pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    head(&mut text, &report.environment, report.seconds);
    for section in &report.sections {
        table(&mut text, section);
    }
    text
}

// Writing to a string cannot fail, so what it answers is not looked at.
fn head(text: &mut String, environment: &Environment, seconds: f64) {
    let Environment { date, revision, gpu, uuid, compute_capability, vram_bytes, .. } = environment;
    let Environment { driver, cuda, linker, kernel, cpu, cpus, jail, .. } = environment;
    let _ = writeln!(text, "# GPU report: {}, {}\n", cell(gpu), cell(date));
    let _ = writeln!(text, "| | |\n|---|---|");
    let vram = format!("{} MiB", vram_bytes >> 20);
    let cpu = format!("{cpus} x {cpu}");
    let took = format!("{} s", shown(seconds));
    let lines = [
        ("revision", revision.as_str()),
        ("GPU", gpu),
        ("UUID", uuid),
        ("compute capability", compute_capability),
        ("memory", &vram),
        ("driver", driver),
        ("CUDA of the driver", cuda),
        ("PTX linker", linker),
        ("kernel", kernel),
        ("processor", &cpu),
        ("jail", jail),
        ("took", &took),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "| {name} | {} |", cell(value));
    }
}

fn table(text: &mut String, section: &Section) {
    let _ = writeln!(text, "\n## {}\n", cell(&section.title));
    let _ = writeln!(text, "| what | where | verdict | median | p10 | p90 | n | unit | ratio | note |");
    let _ = writeln!(text, "|---|---|---|--:|--:|--:|--:|---|---|---|");
    for row in &section.rows {
        let _ = writeln!(text, "{}", line(row));
    }
}

fn line(row: &Row) -> String {
    let figures = match row.figures {
        Some(of) => format!("{} | {} | {} | {}", shown(of.median), shown(of.p10), shown(of.p90), of.n),
        None => " | | | ".to_owned(),
    };
    let ratio = row.ratio.as_ref().map(ratio).unwrap_or_default();
    let Row { what, place, verdict, unit, note, .. } = row;
    format!("| {} | {place} | {verdict} | {figures} | {} | {} | {} |", cell(what), cell(unit), cell(&ratio), cell(note))
}

fn ratio(ratio: &Ratio) -> String {
    let goal = match ratio.goal {
        Some(goal) if ratio.is <= goal => format!(" (goal {goal}: met)"),
        Some(goal) => format!(" (goal {goal}: missed)"),
        None => String::new(),
    };
    format!("{:.3} x {}{goal}", ratio.is, ratio.to)
}

/// Text that stays in its cell: drivers and compilers write what they like.
fn cell(text: &str) -> String {
    let kept = |letter: char| if letter.is_control() { ' ' } else { letter };
    let text: String = text.chars().map(kept).collect();
    text.trim().replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_it_was() {
        assert_eq!(text(&crate::report::tests::example()), include_str!("golden.md"));
    }

    #[test]
    fn nothing_leaves_its_cell() {
        let check = |text: &str, expected: &str| assert_eq!(cell(text), expected);
        check("a | b", "a \\| b");
        check("line one\nline two\r", "line one line two");
        check("\x1b[31m<b>", "[31m&lt;b>");
        check("back\\slash", "back\\\\slash");
    }
}
