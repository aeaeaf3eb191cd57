//! A QR code as one SVG path, dark on light in either colour scheme, since readers expect it so.

use std::fmt::Write;

use qrcode::types::Color;
use qrcode::{EcLevel, QrCode};

use crate::card::QUIET;

/// The text as SVG; nothing if it is too long for a code, which an account's link never is. The text itself does not stand
/// in it.
pub(super) fn svg(text: &str) -> String {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::M) else { return String::new() };
    let (modules, across) = (code.width(), code.width() + 2 * QUIET);
    let mut path = String::new();
    for row in 0..modules {
        let mut column = 0;
        while column < modules {
            let run = (column..modules).take_while(|at| code[(*at, row)] == Color::Dark).count();
            if run > 0 {
                // Writing to a string never fails.
                let _ = write!(path, "M{} {}h{run}v1h-{run}z", column + QUIET, row + QUIET);
            }
            column += run.max(1);
        }
    }
    format!(
        "<svg class=\"qr\" role=\"img\" aria-label=\"QR code of this rig's address\" viewBox=\"0 0 {across} {across}\" \
         shape-rendering=\"crispEdges\"><rect width=\"{across}\" height=\"{across}\" fill=\"#fff\"/>\
         <path fill=\"#000\" d=\"{path}\"/></svg>"
    )
}
