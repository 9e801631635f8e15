//! How values of a report are spelt in JSON: the same as in the events of `premod trace`.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use premod_common::guard::{MmapPolicy, Mode};
use serde::{Deserialize, Serialize};

use crate::output::json::raw;

/// The bytes of a name, from its text and, if that is not exact, its base64.
fn exact(text: String, raw: Option<String>) -> Result<Bytes, base64::DecodeError> {
    match raw {
        Some(raw) => STANDARD.decode(raw).map(Bytes::from),
        None => Ok(text.into()),
    }
}

/// A name that anybody chose: text in one field, and base64 in another if the text is not exact.
macro_rules! name {
    ($name:ident, $about:literal, $fields:ident, $fields_name:literal, $text:ident, $raw:ident) => {
        #[doc = $about]
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = $fields_name, into = $fields_name)]
        pub struct $name(pub Bytes);

        #[derive(Serialize, Deserialize)]
        struct $fields {
            $text: String,
            #[serde(default, skip_serializing_if = "Option::is_none")]
            $raw: Option<String>,
        }

        impl From<$name> for $fields {
            fn from(name: $name) -> Self {
                Self {
                    $text: String::from_utf8_lossy(&name.0).into_owned(),
                    $raw: raw(&name.0),
                }
            }
        }

        impl TryFrom<$fields> for $name {
            type Error = base64::DecodeError;

            fn try_from(fields: $fields) -> Result<Self, Self::Error> {
                exact(fields.$text, fields.$raw).map(Self)
            }
        }
    };
}

name!(
    PathName,
    "The bytes of a path: `path`, and `path_raw` if they are not valid UTF-8.",
    PathFields,
    "PathFields",
    path,
    path_raw
);
name!(
    CommName,
    "The bytes of a task's name: `comm`, and `comm_raw` if they are not valid UTF-8.",
    CommFields,
    "CommFields",
    comm,
    comm_raw
);

/// A command line: `argv`, and `argv_raw` (each argument in base64) if one of them is not valid UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ArgvFields", into = "ArgvFields")]
pub struct Argv(pub Vec<Bytes>);

#[derive(Serialize, Deserialize)]
struct ArgvFields {
    argv: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argv_raw: Option<Vec<String>>,
}

impl From<Argv> for ArgvFields {
    fn from(argv: Argv) -> Self {
        let exact = argv.0.iter().all(|word| raw(word).is_none());
        Self {
            argv: argv
                .0
                .iter()
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
            argv_raw: (!exact).then(|| argv.0.iter().map(|word| STANDARD.encode(word)).collect()),
        }
    }
}

impl TryFrom<ArgvFields> for Argv {
    type Error = base64::DecodeError;

    fn try_from(fields: ArgvFields) -> Result<Self, Self::Error> {
        let words = match fields.argv_raw {
            Some(words) => words
                .into_iter()
                .map(|word| STANDARD.decode(word).map(Bytes::from))
                .collect::<Result<_, _>>()?,
            None => fields.argv.into_iter().map(Bytes::from).collect(),
        };
        Ok(Self(words))
    }
}

/// `deny` or `hold`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Mode", rename_all = "lowercase")]
pub(super) enum ModeWord {
    Deny,
    Hold,
}

/// The words of `--mmap`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "MmapPolicy", rename_all = "lowercase")]
pub(super) enum MmapWord {
    Hold,
    Kill,
    Report,
    Stop,
}

/// A date with all nine digits.
pub(super) mod date {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::output::json::timestamp;

    pub(in crate::freeze) fn serialize<S: Serializer>(
        date: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&timestamp(*date))
    }

    pub(in crate::freeze) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The word of an op. One that a newer premod knows is `unknown` to this one.
pub(super) mod op {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::events::Op;

    pub(in crate::freeze) fn serialize<S: Serializer>(
        op: &Option<Op>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        op.map(Op::name).serialize(serializer)
    }

    pub(in crate::freeze) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Op>, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?;
        Ok(word.map(|word| {
            let known = Op::ALL.into_iter().find(|op| op.name() == word);
            known.unwrap_or(Op::Unknown)
        }))
    }
}
