//! Are two servers the same, row for row? Every table is reduced to its definition and to sums over a hash of each row, so
//! that the order of rows does not matter and nothing has to fit in memory.

use std::collections::BTreeMap;
use std::path::Path;

use crate::client::Client;

/// Tables of the server's own that tell what it did rather than what it holds.
const VOLATILE: [&str; 9] = [
    "mysql.column_stats",
    "mysql.general_log",
    "mysql.gtid_slave_pos",
    "mysql.index_stats",
    "mysql.innodb_index_stats",
    "mysql.innodb_table_stats",
    "mysql.slow_log",
    "mysql.table_stats",
    "mysql.transaction_registry",
];

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Base tables.
    pub(crate) tables: usize,
    /// Rows in them.
    pub(crate) rows: u64,
}

/// A table in a few numbers.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint {
    definition: String,
    rows: u64,
    exclusive: u64,
    sum: String,
}

/// A server as databases and tables.
#[derive(Debug)]
struct Picture {
    databases: Vec<String>,
    tables: BTreeMap<String, Fingerprint>,
}

/// Compares the servers behind two sockets; the error names what differs.
pub(crate) fn same_rows(source: &Path, copy: &Path) -> Result<Compared, String> {
    let (source, copy) = std::thread::scope(|scope| {
        let source = scope.spawn(|| picture(source));
        let copy = picture(copy);
        (source.join(), copy)
    });
    let source = source.map_err(|_| "the comparison panicked".to_owned())??;
    let copy = copy?;
    if source.databases != copy.databases {
        return Err(format!(
            "databases differ: {:?} and {:?}",
            source.databases, copy.databases
        ));
    }
    let mut wrong = Vec::new();
    for (name, original) in &source.tables {
        match copy.tables.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(found) if found == original => {}
            Some(found) => wrong.push(format!("{name} is {found:?} instead of {original:?}")),
        }
    }
    let more = copy
        .tables
        .keys()
        .filter(|name| !source.tables.contains_key(*name));
    wrong.extend(more.map(|name| format!("{name} should not be there")));
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    Ok(Compared {
        tables: source.tables.len(),
        rows: source.tables.values().map(|t| t.rows).sum(),
    })
}

/// Every base table, as `database` and `table`, except those of the server that are no data.
pub(crate) fn base_tables(client: &mut Client) -> Result<Vec<(String, String)>, String> {
    let tables: Vec<(String, String)> = client.rows(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES \
         WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') \
         AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema') ORDER BY 1, 2",
    )?;
    let kept = tables
        .into_iter()
        .filter(|(database, table)| !VOLATILE.contains(&format!("{database}.{table}").as_str()));
    Ok(kept.collect())
}

fn picture(socket: &Path) -> Result<Picture, String> {
    let mut client = Client::connect(socket)?;
    let databases =
        client.rows("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA ORDER BY SCHEMA_NAME")?;
    let mut tables = BTreeMap::new();
    for (database, table) in base_tables(&mut client)? {
        let print = fingerprint(&mut client, &database, &table)?;
        tables.insert(format!("{database}.{table}"), print);
    }
    Ok(Picture { databases, tables })
}

fn fingerprint(client: &mut Client, database: &str, table: &str) -> Result<Fingerprint, String> {
    let name = format!("`{database}`.`{table}`");
    let (_, definition): (String, String) = client.row(&format!("SHOW CREATE TABLE {name}"))?;
    let columns: Vec<String> = client.rows(&format!(
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{database}' \
         AND TABLE_NAME = '{table}' ORDER BY ORDINAL_POSITION"
    ))?;
    // Each value with its length before it: no two rows give the same text.
    let values: Vec<String> = columns
        .iter()
        .map(|c| format!("IFNULL(CONCAT(LENGTH(`{c}`), ':', CAST(`{c}` AS BINARY)), 'NULL')"))
        .collect();
    let (rows, exclusive, sum): (u64, u64, Option<String>) = client.row(&format!(
        "SELECT COUNT(*), BIT_XOR(CAST(CONV(LEFT(h, 16), 16, 10) AS UNSIGNED)), \
         CAST(SUM(CAST(CONV(RIGHT(h, 16), 16, 10) AS UNSIGNED)) AS CHAR) \
         FROM (SELECT MD5(CONCAT({})) AS h FROM {name}) AS hashes",
        values.join(", ")
    ))?;
    Ok(Fingerprint {
        definition: without_counter(&definition),
        rows,
        exclusive,
        sum: sum.unwrap_or_default(),
    })
}

/// The next automatic number is not data: a server may forget what it gave to rows that were rolled back.
fn without_counter(definition: &str) -> String {
    let words: Vec<&str> = definition
        .split(' ')
        .filter(|word| !word.starts_with("AUTO_INCREMENT="))
        .collect();
    words.join(" ")
}

/// Lets the server check every table; the error names each complaint. Returns the number of tables.
pub(crate) fn check_tables(socket: &Path) -> Result<usize, String> {
    let mut client = Client::connect(socket)?;
    let tables = base_tables(&mut client)?;
    let mut wrong = Vec::new();
    for (database, table) in &tables {
        let answer: Vec<(String, String, String, String)> =
            client.rows(&format!("CHECK TABLE `{database}`.`{table}` EXTENDED"))?;
        let complaints = answer
            .iter()
            .filter(|(_, _, kind, text)| kind != "note" && (kind != "status" || text != "OK"));
        wrong.extend(complaints.map(|(name, _, kind, text)| format!("{name}: {kind}: {text}")));
    }
    if wrong.is_empty() {
        Ok(tables.len())
    } else {
        Err(wrong.join("; "))
    }
}
