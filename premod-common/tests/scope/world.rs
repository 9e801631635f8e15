//! The directories, and what the kernel side knows of them.
//!
//! PATH is `app/db` in a directory that stays where it is. Two directories take turns at being `app`, two at being `db`.

/// A directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Directory {
    Top,
    App(u8),
    Db(u8),
}

/// A name, by which a directory may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    App,
    Db,
    /// Some other one.
    Other,
}

/// Both that can be `app`, or `db`.
pub(crate) const BOTH: [u8; 2] = [0, 1];

/// Where the directories are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tree {
    /// Which has the name `app`.
    pub(crate) app: Option<u8>,
    /// In which `app` each of the others is, as `db`; `None` if it is elsewhere.
    pub(crate) dbs: [Option<u8>; 2],
}

impl Tree {
    /// The directory that this one is in, and by which name.
    pub(crate) fn parent(&self, directory: Directory) -> (Directory, Name) {
        match directory {
            Directory::App(this) if self.app == Some(this) => (Directory::Top, Name::App),
            Directory::Db(this) => match self.dbs[usize::from(this)] {
                Some(above) => (Directory::App(above), Name::Db),
                None => (Directory::Top, Name::Other),
            },
            Directory::App(_) | Directory::Top => (Directory::Top, Name::Other),
        }
    }

    /// What is `db` in this `app`.
    pub(crate) fn db_in(&self, app: u8) -> Option<u8> {
        BOTH.into_iter()
            .find(|&db| self.dbs[usize::from(db)] == Some(app))
    }

    /// Whether this directory is what PATH leads to.
    pub(crate) fn is_path(&self, db: u8) -> bool {
        self.app.is_some() && self.dbs[usize::from(db)] == self.app
    }

    /// Every rename that is possible now.
    pub(crate) fn renames(&self) -> Vec<Self> {
        let mut renames = Vec::new();
        let apps = match self.app {
            Some(_) => vec![None],
            None => BOTH.map(Some).to_vec(),
        };
        renames.extend(apps.into_iter().map(|app| Self {
            app,
            ..self.clone()
        }));
        for db in BOTH {
            let mut move_to = |place| {
                let mut moved = self.clone();
                moved.dbs[usize::from(db)] = place;
                renames.push(moved);
            };
            if self.dbs[usize::from(db)].is_some() {
                move_to(None);
            }
            for app in BOTH {
                if self.db_in(app).is_none() {
                    move_to(Some(app));
                }
            }
        }
        renames
    }
}

/// What the kernel side was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Maps {
    /// Directories below which names are watched; the one that stays always is.
    pub(crate) marked: [bool; 2],
    /// Which is expected to be `app`.
    pub(crate) app: Option<u8>,
    /// The name `db` in each `app`, the last one of PATH.
    pub(crate) names: [bool; 2],
    /// What PATH led to.
    pub(crate) root: [bool; 2],
}

impl Maps {
    /// All that is to be known if PATH leads there.
    pub(crate) fn of(app: Option<u8>, db: Option<u8>) -> Self {
        let only = |one: Option<u8>| BOTH.map(|this| one == Some(this));
        Self {
            marked: only(app),
            app,
            names: only(app),
            root: only(db),
        }
    }
}
