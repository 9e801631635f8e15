//! A bank in LMDB, which is written through a mapping (`MDB_WRITEMAP`) and by no system call.

use std::{fs, path::Path};

use heed::{
    Database, Env, EnvFlags, EnvOpenOptions, WithTls,
    byteorder::BE,
    types::{Bytes, U64},
};

use crate::databases::{self, ACCOUNTS, BALANCE, Books, PADDING};

/// Size of the mapping and of the file.
const SIZE: usize = 16 << 20;
/// Keys from here on are the tellers'.
const TELLERS: u64 = 1 << 32;

type Accounts = Database<U64<BE>, Bytes>;

/// An environment and its accounts. A value begins with the balance.
pub(crate) struct Bank {
    environment: Env<WithTls>,
    accounts: Accounts,
}

/// Makes the database.
pub(crate) fn create(directory: &Path) {
    fs::create_dir_all(directory).expect("mkdir");
    let bank = Bank::open(directory);
    let mut transaction = bank.environment.write_txn().expect("a transaction");
    let mut put = |key, number| {
        let put = bank.accounts.put(&mut transaction, &key, &value(number));
        put.expect("put");
    };
    (0..ACCOUNTS).for_each(|account| put(account, BALANCE));
    (0..2).for_each(|teller| put(TELLERS + teller, 0));
    transaction.commit().expect("commit");
}

fn value(number: u64) -> [u8; PADDING] {
    let mut value = [0; PADDING];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().expect("eight bytes"))
}

impl Bank {
    pub(crate) fn open(directory: &Path) -> Self {
        let mut options = EnvOpenOptions::new();
        options.map_size(SIZE);
        // SAFETY: every process that opens the environment does so with these flags and with locks, and
        // nobody else writes to its files.
        let environment = unsafe {
            options.flags(EnvFlags::WRITE_MAP | EnvFlags::MAP_ASYNC);
            options.open(directory).expect("the environment")
        };
        let mut transaction = environment.write_txn().expect("a transaction");
        let accounts = environment.create_database(&mut transaction, None);
        let accounts = accounts.expect("the accounts");
        transaction.commit().expect("commit");
        Self {
            environment,
            accounts,
        }
    }
}

impl databases::Bank for Bank {
    fn transfer(&mut self, teller: usize, from: u64, to: u64, amount: u64) {
        let mut transaction = self.environment.write_txn().expect("a transaction");
        let mut add = |key: u64, difference: i64| {
            let old = self.accounts.get(&transaction, &key).expect("get");
            let new = number(old.expect("a known key")).checked_add_signed(difference);
            if let Some(new) = new {
                let put = self.accounts.put(&mut transaction, &key, &value(new));
                put.expect("put");
            }
            new.is_some()
        };
        let amount = amount.cast_signed();
        if add(from, -amount) {
            add(to, amount);
        }
        add(TELLERS + teller as u64, 1);
        transaction.commit().expect("commit");
    }
}

/// Opens a copy of the data file, walks through all of it, and adds up.
pub(crate) fn audit(data: &Path) -> Result<Books, String> {
    look(data.parent().expect("a directory")).map_err(|error| error.to_string())?
}

fn look(directory: &Path) -> heed::Result<Result<Books, String>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(SIZE);
    // SAFETY: nobody else has the copy open.
    let environment = unsafe {
        options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK);
        options.open(directory)?
    };
    let transaction = environment.read_txn()?;
    let accounts: Option<Accounts> = environment.open_database(&transaction, None)?;
    let Some(accounts) = accounts else {
        return Ok(Err("there are no accounts".to_owned()));
    };
    let (mut sum, mut keys, mut tellers) = (0, 0, Vec::new());
    for entry in accounts.iter(&transaction)? {
        let (key, value) = entry?;
        if key >= TELLERS {
            tellers.push(number(value));
        } else if key == keys && value.len() == PADDING {
            sum += number(value);
            keys += 1;
        } else {
            return Ok(Err(format!("key {key} instead of {keys}")));
        }
    }
    if keys != ACCOUNTS {
        return Ok(Err(format!("{keys} accounts")));
    }
    Ok(Ok(Books { sum, tellers }))
}
