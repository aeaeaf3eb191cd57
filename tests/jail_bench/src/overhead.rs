//! The processor time of the same work inside and outside: an integer loop, and reads of a file that is in memory.
//!
//! Processor time, as the program itself reads it, because what else the machine does would be in anything else.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runner::protocol::{NetworkPolicy, SourceName};

use crate::bed::{Bed, data, sealed};
use crate::table::{Part, Row, Table};

/// Rounds that are counted, besides one that is not.
const ROUNDS: u32 = 21;

/// One kind of work.
struct Kind<'a> {
    name: &'static str,
    bound: &'static str,
    /// The command in the jail.
    inside: &'a [&'a str],
    /// Arguments of the same program outside, and how that is to be called; the first is what ratios refer to.
    outside: &'a [(&'static str, &'a [&'a str])],
}

pub(crate) fn measure(bed: &Bed, _: &Path, _: u32, table: &mut Table) -> Result<()> {
    let source = bed.open("overhead", &bed.image_inside, NetworkPolicy::None)?;
    let file = bed.path("data");
    std::fs::write(&file, data())?;
    let file = file.to_str().context("a path in text")?;
    let below_overlay = overlay(bed)?;
    let below_overlay = below_overlay.to_str().context("a path in text")?;
    let kinds = [
        Kind {
            name: "integer loop",
            bound: "the processor",
            inside: &["/inside", "loop"],
            outside: &[("", &["loop"])],
        },
        Kind {
            name: "reads of 4 KiB, cached",
            bound: "the kernel's way into any filter, on each call",
            inside: &["/inside", "reads", "/data"],
            outside: &[
                ("", &["reads", file]),
                (" below a filter that allows all", &["filtered", file]),
                (" through an overlay", &["reads", below_overlay]),
            ],
        },
    ];
    let mut rows = Vec::new();
    for kind in kinds {
        rows.extend(kind.measure(bed, &source)?);
    }
    umount2(&bed.path("overlay/merged"), MntFlags::MNT_DETACH).context("unmount the overlay")?;
    let notes = vec![
        "processor time, user and kernel. The goals are at most 1.01 and at most 1.05 x outside".to_owned(),
        "reads: a filter of one instruction is the least that a jail with any filter pays; what our jail adds is to be \
         compared with that row"
            .to_owned(),
        "reads: the file system is that of the temporary directory outside, erofs in the jail, which needs no overlay for an \
         image of one layer"
            .to_owned(),
    ];
    table.add(Part { title: "processor time inside and outside".to_owned(), rows, notes });
    Ok(())
}

// === impl Kind ===

impl Kind<'_> {
    fn measure(&self, bed: &Bed, source: &SourceName) -> Result<Vec<Row>> {
        let Self { name, bound, inside, outside } = self;
        eprintln!("bench: overhead, {name}");
        let mut without = vec![Vec::new(); outside.len()];
        let (mut within, mut ratios) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let mut bare = Vec::new();
            for (_, words) in *outside {
                let done = Command::new(&bed.inside).args(*words).env_clear().output()?;
                ensure!(done.status.success(), "outside: {}", String::from_utf8_lossy(&done.stderr));
                bare.push(milliseconds(&String::from_utf8_lossy(&done.stdout))?);
            }
            let jailed = milliseconds(&bed.run(source, &bed.image_inside, sealed(inside))?)?;
            if round > 0 {
                ratios.extend(bare.first().map(|bare| jailed / bare));
                within.push(jailed);
                without.iter_mut().zip(bare).for_each(|(samples, sample)| samples.push(sample));
            }
        }
        let mut rows: Vec<Row> = { outside.iter().zip(without) }
            .map(|((how, _), samples)| {
                Row::new(format!("{name}, outside{how}"), "ms", samples, "the same static program")
            })
            .collect();
        let bare = rows.first().and_then(Row::median);
        rows.push(Row::new(format!("{name}, in the jail"), "ms", within, *bound));
        rows.iter_mut().skip(1).for_each(|row| row.beside(bare, "outside"));
        rows.push(Row::new(format!("{name}, inside / outside of each round"), "x", ratios, "noise of the machine"));
        Ok(rows)
    }
}

/// The file that is read, below an overlay on the same disk: what any engine that stacks layers pays.
fn overlay(bed: &Bed) -> Result<PathBuf> {
    let part = |name: &str| bed.path(&format!("overlay/{name}"));
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir_all(part(name))?;
    }
    std::fs::write(part("lower/data"), data())?;
    let (lower, upper, work) = (part("lower"), part("upper"), part("work"));
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &part("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("mount an overlay")?;
    Ok(part("merged/data"))
}

/// What `inside` printed, nanoseconds.
fn milliseconds(printed: &str) -> Result<f64> {
    let nanoseconds: f64 = printed.trim().parse().with_context(|| format!("{printed:?} is no time"))?;
    Ok(nanoseconds / 1e6)
}
