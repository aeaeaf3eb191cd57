//! The page itself. Every text goes through [`Text`], which escapes it; what stands in `format!` here is ours.

use std::fmt::{self, Display, Write};

use super::qr;
use crate::face::{Face, GpuRow, Machine, SourceRow};

/// Seconds after which a browser asks again.
const REFRESH_S: u32 = 10;

/// The page's style, as the browser is told its hash.
pub(super) const STYLE: &str = include_str!("style.css");

/// What no tier changes.
const ROOT_WORDS: &str = "Whoever is root on the running rig can use the key.";

/// A text in HTML: whatever it holds, it stays text, between tags and inside quoted attributes.
struct Text<T>(T);

/// The same between tags, with what stands in backticks shown as a command.
struct Words<'a>(&'a str);

// === impl Text ===

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sign in self.0.to_string().chars() {
            match sign {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                sign if sign.is_control() => f.write_char(' ')?,
                sign => f.write_char(sign)?,
            }
        }
        Ok(())
    }
}

// === impl Words ===

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((before, after)) = rest.split_once('`') {
            let Some((command, after)) = after.split_once('`') else { break };
            write!(f, "{}<code>{}</code>", Text(before), Text(command))?;
            rest = after;
        }
        write!(f, "{}", Text(rest))
    }
}

/// The whole page.
pub(super) fn page(face: &Face) -> String {
    let name = Text(&face.name);
    let (mood, words) = mood(face);
    let sections = [trouble(face), who(face), facts(face), gpus(face), sources(face)].concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"refresh\" content=\"{REFRESH_S}\">\n<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<header><h1>{name}</h1><p class=\"mood {mood}\">{}</p></header>\n{sections}\
         <footer>Rig software {}{}. This page asks again every {REFRESH_S} seconds; nothing can be changed here.\
         </footer>\n</main>\n</body>\n</html>\n",
        Words(&words),
        Text(face.version),
        uptime(face.machine.uptime_s),
    )
}

/// How the rig is, in a colour and a few words.
fn mood(face: &Face) -> (&'static str, String) {
    let phase = face.phase.as_deref().unwrap_or("starting");
    if !face.is_well_kept() {
        return ("bad", "needs attention".to_owned());
    }
    if face.is_draining {
        return ("wait", "ending: begun work is finished first".to_owned());
    }
    if face.is_paired {
        return ("good", phase.to_owned());
    }
    ("wait", phase.to_owned())
}

fn trouble(face: &Face) -> String {
    let mut html = String::new();
    if !face.next.is_empty() {
        let replaces = face.replaces.as_ref().map_or_else(String::new, |address| {
            let waits = "Until then this rig waits under a new address, in place of";
            format!("<p class=\"soft small\">{waits} <span class=\"mono\">{}</span>.</p>", Text(address))
        });
        html += &format!(
            "<section class=\"trouble\"><h2>Key {}</h2><p><strong>{}.</strong></p><p>What to do: {}.</p>{replaces}\
             </section>\n",
            Text(face.state_code),
            Text(capital(face.what)),
            Words(face.next),
        );
    }
    if let Some(silence) = &face.silence {
        html += &format!("<section class=\"trouble\"><h2>Signer</h2><p>{}</p></section>\n", Text(silence));
    }
    for notice in &face.notices {
        let lines: String = notice.next.iter().map(|line| format!("<br>{}", Words(line))).collect();
        html += &format!("<section class=\"trouble\"><h2>Notice</h2><p>{}{lines}</p></section>\n", Text(&notice.what));
    }
    if let Some(trouble) = &face.trouble {
        html += &format!("<section class=\"trouble\"><h2>Last try</h2><p>{}</p></section>\n", Text(trouble));
    }
    html
}

fn who(face: &Face) -> String {
    let code = qr::svg(&face.link());
    format!(
        "<section class=\"who\"><div><h2>Pairing code</h2><p class=\"code\">{}</p>\
         <h2>Address</h2><p class=\"mono\">{}</p>\
         <h2>Owner wished</h2><p class=\"mono\">{}</p>\
         <h2>Tier</h2><p>{}</p><p class=\"soft small\">{ROOT_WORDS}</p></div>{code}</section>\n",
        Text(&face.code),
        Text(face.address),
        Text(face.owner),
        Text(&face.kept),
    )
}

fn facts(face: &Face) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a string never fails.
        let _ = write!(rows, "<dt>{name}</dt><dd>{}</dd>", Words(value));
    };
    row("State", &format!("{}: {}", face.state_code, face.what));
    row("Phase", face.phase.as_deref().unwrap_or("starting"));
    let coin =
        |amount: &Option<String>| amount.as_ref().map_or_else(|| "not known yet".to_owned(), |a| format!("{a} coin"));
    row("Balance", &coin(&face.gas));
    row("Stake", &coin(&face.stake));
    if let Some((running, paid)) = face.tasks {
        row("Tasks", &format!("{running} running, {paid} paid"));
    }
    row("Chain", &face.chain_id.to_string());
    if let Some(machine) = machine(&face.machine) {
        row("Machine", &machine);
    }
    format!("<section><h2>Now</h2><dl>{rows}</dl></section>\n")
}

fn gpus(face: &Face) -> String {
    let row = |gpu: &GpuRow| {
        format!("<li><div><span>{}</span><span class=\"soft\">{}</span></div></li>", Text(&gpu.model), Text(&gpu.state))
    };
    let rows: String = face.gpus.iter().map(row).collect();
    if rows.is_empty() { rows } else { format!("<section><h2>GPUs</h2><ul>{rows}</ul></section>\n") }
}

fn sources(face: &Face) -> String {
    let row = |source: &SourceRow| {
        let why = source.why.as_ref();
        let why = why.map_or_else(String::new, |why| format!("<p class=\"soft small\">{}</p>", Text(why)));
        let (address, stage) = (Text(&source.address), Text(&source.stage));
        format!("<li><div><span class=\"mono\">{address}</span><span>{stage}</span></div>{why}</li>")
    };
    let rows: String = face.sources.iter().map(row).collect();
    let body = match face.sources_known - face.sources.len() {
        _ if rows.is_empty() => "<p class=\"soft\">None yet.</p>".to_owned(),
        0 => format!("<ul>{rows}</ul>"),
        more => format!("<ul>{rows}</ul><p class=\"soft small\">and {more} more</p>"),
    };
    format!("<section><h2>Sources</h2>{body}</section>\n")
}

fn machine(machine: &Machine) -> Option<String> {
    let memory = machine.memory_used_mib.zip(machine.memory_mib);
    let memory = memory.map(|(used, all)| format!("{used} of {all} MiB of memory used"));
    let processes = machine.processes.map(|count| format!("{count} processes"));
    let facts: Vec<String> = memory.into_iter().chain(processes).collect();
    (!facts.is_empty()).then(|| facts.join(", "))
}

fn uptime(uptime_s: Option<u64>) -> String {
    let Some(all) = uptime_s else { return String::new() };
    let (days, hours, minutes) = (all / 86_400, all / 3600 % 24, all / 60 % 60);
    match (days, hours) {
        (0, 0) => format!(", up {minutes} min"),
        (0, hours) => format!(", up {hours} h {minutes} min"),
        (days, hours) => format!(", up {days} d {hours} h"),
    }
}

fn capital(words: &str) -> String {
    let mut signs = words.chars();
    signs.next().map_or_else(String::new, |first| first.to_uppercase().chain(signs).collect())
}
