//! A server with something in it and something going on: a generated data set of several engines, money that is moved but
//! never made, and clients that write until they are told to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Client, Fault};
use crate::ddl;

/// Tables with accounts, rows in each, and what is on each account at first.
const BANKS: u64 = 4;
const ACCOUNTS: u64 = 2000;
const DEPOSIT: u64 = 1000;

/// How much goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Clients that transfer money.
    pub(crate) tellers: usize,
    /// A client that writes to tables of every engine.
    pub(crate) clerk: bool,
    /// A client that creates, alters, renames, and drops.
    pub(crate) ddl: bool,
}

/// What has been done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) transfers: u64,
    pub(crate) writes: u64,
    pub(crate) ddl: u64,
}

impl Tally {
    /// What was done after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            transfers: self.transfers - earlier.transfers,
            writes: self.writes - earlier.writes,
            ddl: self.ddl - earlier.ddl,
        }
    }
}

/// What the clients share.
#[derive(Debug, Default)]
struct Board {
    stop: AtomicBool,
    transfers: AtomicU64,
    writes: AtomicU64,
    ddl: AtomicU64,
}

/// Clients at work. Dropping this leaves them; [`Workload::stop`] is the end of a test.
#[derive(Debug)]
pub(crate) struct Workload {
    board: Arc<Board>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

/// Fills the server behind `socket` with about `megabytes` of data and everything that [`Workload`] and [`check_money`] need.
/// The data does not go to the binary log: replicas begin with a backup.
pub(crate) fn load(socket: &Path, megabytes: u64) -> Result<(), String> {
    let mut client = session_without_binlog(socket)?;
    // Not every build has it; the rest of the set shows as much without it.
    let archive = client.run("INSTALL SONAME 'ha_archive'").is_ok();
    for statement in definitions(archive) {
        client.run(&statement)?;
    }
    let bulk = bulk(megabytes.max(1), archive);
    std::thread::scope(|scope| {
        let halves = bulk.map(|half| {
            scope.spawn(move || -> Result<(), String> {
                let mut client = session_without_binlog(socket)?;
                for statement in half {
                    client.run(&statement)?;
                }
                Ok(())
            })
        });
        for half in halves {
            half.join().map_err(|_| "loading panicked".to_owned())??;
        }
        Ok(())
    })
}

fn session_without_binlog(socket: &Path) -> Result<Client, String> {
    let mut client = Client::connect(socket)?;
    client.run("SET sql_log_bin = 0")?;
    Ok(client)
}

fn definitions(archive: bool) -> Vec<String> {
    let mut all: Vec<String> = [
        "CREATE DATABASE shop",
        "CREATE DATABASE bank",
        "CREATE DATABASE `empty database`",
        "CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY, customer INT NOT NULL, sku CHAR(32) \
         CHARACTER SET latin1, note VARCHAR(800), placed DATETIME, state ENUM('new','paid','sent'), \
         KEY (customer, placed), KEY (sku))",
        "CREATE TABLE shop.documents (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100), body LONGBLOB, \
         UNIQUE KEY (name))",
        "CREATE TABLE shop.events (id INT, day INT, what VARCHAR(400), PRIMARY KEY (id, day)) \
         PARTITION BY RANGE (day) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20), \
         PARTITION p2 VALUES LESS THAN MAXVALUE)",
        "CREATE TABLE shop.packed (id INT PRIMARY KEY, v VARCHAR(500), KEY (v(20))) \
         ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8",
        "CREATE TABLE shop.squeezed (id INT PRIMARY KEY, v VARCHAR(500)) PAGE_COMPRESSED=1",
        "CREATE TABLE shop.audit (id INT PRIMARY KEY, v VARCHAR(300), KEY (v(10))) ENGINE=Aria TRANSACTIONAL=1",
        "CREATE TABLE shop.cache (id INT PRIMARY KEY, v VARCHAR(300)) ENGINE=Aria TRANSACTIONAL=0",
        "CREATE TABLE shop.legacy (id INT PRIMARY KEY, v VARCHAR(300), KEY (v(10))) ENGINE=MyISAM",
        "CREATE TABLE shop.list (id INT NOT NULL, v VARCHAR(100) NOT NULL) ENGINE=CSV",
        // A total that an unfinished transaction is about to change during the whole load.
        "CREATE TABLE bank.vault (id INT PRIMARY KEY, balance BIGINT NOT NULL)",
        "CREATE TABLE bank.journal (id BIGINT AUTO_INCREMENT PRIMARY KEY, from_bank INT, from_id INT, \
         to_bank INT, to_id INT, amount BIGINT, KEY (from_bank, from_id), KEY (to_bank, to_id))",
        "INSERT INTO bank.vault VALUES (1, 0)",
    ]
    .map(str::to_owned)
    .to_vec();
    if archive {
        all.push("CREATE TABLE shop.attic (id INT, v VARCHAR(300)) ENGINE=ARCHIVE".to_owned());
    }
    for bank in 0..BANKS {
        all.push(format!(
            "CREATE TABLE bank.account_{bank} (id INT PRIMARY KEY, balance BIGINT NOT NULL, owner VARCHAR(64))"
        ));
        all.push(format!(
            "INSERT INTO bank.account_{bank} SELECT seq, {DEPOSIT}, MD5(seq) FROM seq_1_to_{ACCOUNTS}"
        ));
    }
    all.extend(ddl::definitions());
    all
}

/// The statements that make the volume, for two clients of about equal work.
fn bulk(megabytes: u64, archive: bool) -> [Vec<String>; 2] {
    // About 1 KiB for a row with its share of the keys, whose pages are not full, more than half of the volume.
    let orders = megabytes * 640;
    let mut rest = vec![
        format!(
            "INSERT INTO shop.documents (name, body) SELECT CONCAT('document ', seq), \
             REPEAT(SHA2(seq, 512), 50 + seq % 200) FROM seq_1_to_{}",
            megabytes * 6
        ),
        format!(
            "INSERT INTO shop.events SELECT seq, seq % 30, REPEAT(MD5(seq), 8) FROM seq_1_to_{}",
            megabytes * 190
        ),
    ];
    for (table, rows) in [
        ("packed", 100),
        ("squeezed", 80),
        ("audit", 70),
        ("cache", 40),
        ("legacy", 70),
    ] {
        rest.push(format!(
            "INSERT INTO shop.{table} SELECT seq, REPEAT(MD5(seq), 8) FROM seq_1_to_{}",
            megabytes * rows
        ));
    }
    rest.push(format!(
        "INSERT INTO shop.list SELECT seq, MD5(seq) FROM seq_1_to_{}",
        megabytes * 20
    ));
    if archive {
        rest.push(format!(
            "INSERT INTO shop.attic SELECT seq, REPEAT(MD5(seq), 8) FROM seq_1_to_{}",
            megabytes * 20
        ));
    }
    let orders = format!(
        "INSERT INTO shop.orders (customer, sku, note, placed, state) SELECT seq * 7919 % 50000, MD5(seq), \
         REPEAT(MD5(seq + 1), 16), '2026-01-01' + INTERVAL seq % 500000 MINUTE, 1 + seq % 3 \
         FROM seq_1_to_{orders}"
    );
    [vec![orders], rest]
}

impl Workload {
    /// Lets clients write to the server behind `socket`, which [`load`] has filled.
    pub(crate) fn start(socket: &Path, load: Load) -> Self {
        let board = Arc::new(Board::default());
        let mut clients = Vec::new();
        let mut hire = |work: fn(&Path, &Board, u64) -> Result<(), String>, seed: u64| {
            let board = Arc::clone(&board);
            let socket: PathBuf = socket.to_owned();
            clients.push(std::thread::spawn(move || work(&socket, &board, seed)));
        };
        for seed in 0..load.tellers as u64 {
            hire(teller, seed);
        }
        hire(dreamer, 0);
        if load.clerk {
            hire(clerk, 100);
        }
        if load.ddl {
            hire(builder, 0);
        }
        Self { board, clients }
    }

    /// What has been done so far.
    pub(crate) fn tally(&self) -> Tally {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            transfers: get(&self.board.transfers),
            writes: get(&self.board.writes),
            ddl: get(&self.board.ddl),
        }
    }

    /// Tells all clients to stop, waits for them, and reports the first failure of any.
    pub(crate) fn stop(self) -> Result<Tally, String> {
        self.board.stop.store(true, Ordering::Relaxed);
        let tally = self.tally();
        for client in self.clients {
            client
                .join()
                .map_err(|_| "a client panicked".to_owned())??;
        }
        Ok(tally)
    }
}

impl Board {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Moves money between accounts of different tables and writes it down, each time in one transaction.
fn teller(socket: &Path, board: &Board, seed: u64) -> Result<(), String> {
    let mut client = Client::connect(socket)?;
    let mut dice = Dice::new(seed + 1);
    while board.goes_on() {
        let (from_bank, to_bank) = (dice.below(BANKS), dice.below(BANKS));
        let (from, to) = (1 + dice.below(ACCOUNTS), 1 + dice.below(ACCOUNTS));
        let amount = dice.below(50);
        let statements = [
            "START TRANSACTION".to_owned(),
            format!(
                "UPDATE bank.account_{from_bank} SET balance = balance - {amount} WHERE id = {from}"
            ),
            format!(
                "UPDATE bank.account_{to_bank} SET balance = balance + {amount} WHERE id = {to}"
            ),
            format!(
                "INSERT INTO bank.journal (from_bank, from_id, to_bank, to_id, amount) \
                 VALUES ({from_bank}, {from}, {to_bank}, {to}, {amount})"
            ),
            "COMMIT".to_owned(),
        ];
        if together(&mut client, &statements)? {
            Board::count(&board.transfers);
        }
    }
    Ok(())
}

/// Runs a transaction; `false` if the server asked to try again later.
fn together(client: &mut Client, statements: &[String]) -> Result<bool, Fault> {
    for statement in statements {
        match client.run(statement) {
            Ok(()) => {}
            Err(fault) if fault.is_transient() => {
                client.run("ROLLBACK")?;
                return Ok(false);
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(true)
}

/// Holds a transaction open that would make money, and takes it back at the end: a restored server must not show it.
fn dreamer(socket: &Path, board: &Board, _seed: u64) -> Result<(), String> {
    let mut client = Client::connect(socket)?;
    client.run("START TRANSACTION")?;
    client.run("UPDATE bank.vault SET balance = 1000000")?;
    while board.goes_on() {
        std::thread::sleep(Duration::from_millis(50));
    }
    client.run("ROLLBACK")?;
    Ok(())
}

/// Writes to the tables of every engine.
fn clerk(socket: &Path, board: &Board, seed: u64) -> Result<(), String> {
    let mut client = Client::connect(socket)?;
    let mut dice = Dice::new(seed);
    let mut number = 1_000_000_000_u64;
    while board.goes_on() {
        number += 1;
        let any = 1 + dice.below(1000);
        let statements = [
            format!(
                "UPDATE shop.orders SET state = 1 + {any} % 3, note = REPEAT(MD5({number}), 12) WHERE id = {any}"
            ),
            format!(
                "INSERT INTO shop.orders (customer, sku, note, placed, state) \
                 VALUES ({any}, MD5({number}), REPEAT('n', {any} % 500), NOW(), 'new')"
            ),
            format!(
                "INSERT INTO shop.documents (name, body) VALUES ('new {number}', REPEAT(MD5({number}), 400))"
            ),
            format!("DELETE FROM shop.documents WHERE id = {any}"),
            format!("INSERT INTO shop.events VALUES ({number}, {any} % 30, 'new')"),
            format!("UPDATE shop.packed SET v = REPEAT(MD5({number}), 10) WHERE id = {any}"),
            format!("UPDATE shop.squeezed SET v = REPEAT(MD5({number}), 10) WHERE id = {any}"),
            format!("INSERT INTO shop.audit VALUES ({number}, MD5({number}))"),
            format!("UPDATE shop.audit SET v = REPEAT('x', {any} % 290) WHERE id = {any}"),
            format!("REPLACE INTO shop.cache VALUES ({any}, MD5({number}))"),
            format!("INSERT INTO shop.legacy VALUES ({number}, MD5({number}))"),
            format!("DELETE FROM shop.legacy WHERE id = {any}"),
            format!("INSERT INTO shop.list VALUES ({number}, 'new, \"quoted\"')"),
        ];
        for statement in &statements {
            if together(&mut client, std::slice::from_ref(statement))? {
                Board::count(&board.writes);
            }
        }
    }
    Ok(())
}

/// Changes definitions, in the same order in every run.
fn builder(socket: &Path, board: &Board, _seed: u64) -> Result<(), String> {
    let mut client = Client::connect(socket)?;
    for round in 1.. {
        for statement in ddl::round(round, BANKS) {
            if !board.goes_on() {
                return Ok(());
            }
            // Later statements build on this one.
            while !together(&mut client, std::slice::from_ref(&statement))? {}
            Board::count(&board.ddl);
        }
    }
    Ok(())
}

/// No money was made or lost: neither in total nor, by the journal, on any account. Returns the number of transfers.
pub(crate) fn check_money(socket: &Path) -> Result<u64, String> {
    let mut client = Client::connect(socket)?;
    let accounts: Vec<String> = (0..BANKS)
        .map(|bank| format!("SELECT {bank} AS bank, id, balance FROM bank.account_{bank}"))
        .collect();
    let accounts = accounts.join(" UNION ALL ");
    let total: u64 = client.row(&format!(
        "SELECT CAST(SUM(balance) AS UNSIGNED) FROM ({accounts} UNION ALL SELECT 9, id, balance FROM bank.vault) AS a"
    ))?;
    let expected = BANKS * ACCOUNTS * DEPOSIT;
    if total != expected {
        return Err(format!("the accounts hold {total} instead of {expected}"));
    }
    let wrong: u64 = client.row(&format!(
        "SELECT COUNT(*) FROM ({accounts}) AS a LEFT JOIN \
         (SELECT bank, id, SUM(change_) AS changed FROM \
           (SELECT from_bank AS bank, from_id AS id, -amount AS change_ FROM bank.journal \
            UNION ALL SELECT to_bank, to_id, amount FROM bank.journal) AS each_way \
          GROUP BY bank, id) AS j USING (bank, id) \
         WHERE a.balance <> {DEPOSIT} + IFNULL(j.changed, 0)"
    ))?;
    if wrong != 0 {
        return Err(format!("{wrong} accounts disagree with the journal"));
    }
    client.row("SELECT COUNT(*) FROM bank.journal")
}
