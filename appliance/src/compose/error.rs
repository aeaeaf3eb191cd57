//! Why a compose file is not run: where, what, and what would be right.

use thiserror::Error;

use super::exceptions::Exception;
use super::{COMPOSE_BYTES_MAX, SERVICE_PORT, SERVICES_MAX};

/// Why a compose file is not run.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ComposeError {
    /// Longer than is read.
    #[error("the compose file has {bytes} bytes, at most {COMPOSE_BYTES_MAX} are read")]
    FileTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not YAML.
    #[error("the compose file does not parse: {why}")]
    Syntax {
        /// What the parser found, with the line.
        why: String,
    },
    /// None, or too many.
    #[error("the compose file has {count} services, this rig runs 1 to {SERVICES_MAX}")]
    Services {
        /// How many.
        count: usize,
    },
    /// A name that is none.
    #[error("`{name}` is no name for a {what}")]
    BadName {
        /// The name, cut.
        name: String,
        /// What it should name.
        what: &'static str,
    },
    /// A value of the wrong kind.
    #[error("`{path}` is {found}, it should be {wanted}")]
    Kind {
        /// Where in the file.
        path: String,
        /// What kind of value stands there.
        found: &'static str,
        /// What should.
        wanted: &'static str,
    },
    /// A value that does not mean anything there.
    #[error("`{path}` is `{text}`, it should be {wanted}")]
    BadValue {
        /// Where in the file.
        path: String,
        /// The value, cut.
        text: String,
        /// What should stand there.
        wanted: &'static str,
    },
    /// A list or map that is too long.
    #[error("`{path}` has {count} entries, at most {max} are run")]
    TooMany {
        /// Where in the file.
        path: String,
        /// How many.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// Text that is too long, after interpolation.
    #[error("`{path}` has more than {max} bytes of text")]
    TextTooLong {
        /// Where in the file.
        path: String,
        /// The bound.
        max: usize,
    },
    /// A key that is not run.
    #[error("`{path}` is refused: {why}{}", remedy(*exception))]
    Refused {
        /// Where in the file.
        path: String,
        /// Why.
        why: &'static str,
        /// What the owner can allow, so that the source runs without it.
        exception: Option<Exception>,
    },
    /// A key that is not known.
    #[error("`{path}` is refused: this rig does not know it{}", hint(*nearest))]
    Unknown {
        /// Where in the file.
        path: String,
        /// The known key that is closest to it.
        nearest: Option<&'static str>,
    },
    /// A key without which nothing runs.
    #[error("`{path}` is missing")]
    Missing {
        /// Where in the file.
        path: String,
    },
    /// A name that leads nowhere.
    #[error("`{path}` names the {what} `{name}`, which the file does not declare")]
    NotDeclared {
        /// Where in the file.
        path: String,
        /// What should be declared.
        what: &'static str,
        /// The name, cut.
        name: String,
    },
    /// Two of what there can be one of.
    #[error("`{path}` has {what} a second time")]
    Twice {
        /// Where the second stands.
        path: String,
        /// Of what.
        what: String,
    },
    /// Services that wait for each other.
    #[error("services wait for each other in a circle: {}", names.join(" -> "))]
    Circle {
        /// The circle; its first name is also its last.
        names: Vec<String>,
    },
    /// Nothing answers where the rig asks.
    #[error(
        "no service publishes ${{PORT}}: the one that takes the tasks needs `ports: [\"${{PORT}}:{SERVICE_PORT}\"]`"
    )]
    NoMain,
    /// `${NAME}` that is not offered.
    #[error("`{path}` asks for ${{{name}}}, which this rig does not offer")]
    NotOffered {
        /// Where in the file.
        path: String,
        /// The name, cut.
        name: String,
    },
    /// `${NAME:?message}` where the name is not offered.
    #[error("`{path}` asks for ${{{name}}}, which this rig does not offer; the file says: {message}")]
    Demanded {
        /// Where in the file.
        path: String,
        /// The name, cut.
        name: String,
        /// The file's words, cut.
        message: String,
    },
    /// `${…}` that does not parse.
    #[error("`{path}` has a `${{` that does not end, or a name that is none")]
    BadInterpolation {
        /// Where in the file.
        path: String,
    },
    /// A command line whose quote does not end.
    #[error("`{path}` has a quote that does not end")]
    OpenQuote {
        /// Where in the file.
        path: String,
    },
}

fn remedy(exception: Option<Exception>) -> String {
    let words = |name| format!(" (to run it without: `allow = [\"{name}\"]` in its [[source]] of rig.toml)");
    exception.map(words).unwrap_or_default()
}

fn hint(nearest: Option<&'static str>) -> String {
    nearest.map(|key| format!(", did you mean `{key}`?")).unwrap_or_default()
}
