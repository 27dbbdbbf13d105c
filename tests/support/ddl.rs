//! Statements that change definitions in every way a backup has to keep up with.

/// What the rounds need to be there.
pub(crate) fn definitions() -> Vec<String> {
    let mut all: Vec<String> = [
        "CREATE DATABASE churn",
        "CREATE TABLE churn.wide (id INT PRIMARY KEY, v VARCHAR(300))",
        "CREATE TABLE churn.cut (id INT PRIMARY KEY, v VARCHAR(300))",
        "CREATE TABLE churn.exchanged (id INT, v VARCHAR(300), PRIMARY KEY (id))",
        "CREATE TABLE churn.parts (id INT, v VARCHAR(300), PRIMARY KEY (id)) PARTITION BY RANGE (id) \
         (PARTITION p0 VALUES LESS THAN (100000), PARTITION p1 VALUES LESS THAN (200000))",
        "CREATE TABLE churn.mine (id INT PRIMARY KEY, v VARCHAR(300)) ENGINE=MyISAM",
        "INSERT INTO churn.wide SELECT seq, REPEAT(MD5(seq), 8) FROM seq_1_to_8000",
        "INSERT INTO churn.parts SELECT seq * 30, MD5(seq) FROM seq_1_to_6000",
        "INSERT INTO churn.mine SELECT seq, MD5(seq) FROM seq_1_to_2000",
    ]
    .map(str::to_owned)
    .to_vec();
    for (table, word) in [
        ("left_", "l"),
        ("right_", "r"),
        ("a", "a"),
        ("b", "b"),
        ("c", "c"),
    ] {
        all.push(format!(
            "CREATE TABLE churn.{table} (id INT PRIMARY KEY, v VARCHAR(300))"
        ));
        all.push(format!(
            "INSERT INTO churn.{table} SELECT seq, REPEAT('{word}', seq % 300) FROM seq_1_to_3000"
        ));
    }
    all
}

/// The statements of one round, counted from 1. Each builds on those before it; after a round everything of [`definitions`]
/// is there again under its name, if not as it was. `banks` is the number of account tables.
pub(crate) fn round(n: u64, banks: u64) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(created_and_truncated(n));
    all.extend(renamed());
    all.extend(altered(n, banks));
    all.extend(partitioned(n));
    all.extend(moved(n));
    all
}

fn created_and_truncated(n: u64) -> Vec<String> {
    let mut all = vec![
        format!("CREATE TABLE churn.new_{n} (id INT PRIMARY KEY, v VARCHAR(300), KEY (v(20)))"),
        format!(
            "INSERT INTO churn.new_{n} SELECT seq, REPEAT(MD5(seq + {n}), 8) FROM seq_1_to_2000"
        ),
        format!("CREATE TABLE churn.brief_{n} SELECT * FROM churn.a"),
        format!("REPLACE INTO churn.cut SELECT seq, MD5(seq * {n}) FROM seq_1_to_1000"),
        format!("DROP TABLE churn.brief_{n}"),
        format!("CREATE TABLE churn.brief_{n} (id INT PRIMARY KEY) ENGINE=Aria"),
        "TRUNCATE TABLE churn.cut".to_owned(),
        format!("INSERT INTO churn.cut SELECT seq, MD5(seq + {n}) FROM seq_1_to_500"),
    ];
    if n > 2 {
        all.push(format!("DROP TABLE churn.brief_{}", n - 2));
    }
    all
}

fn renamed() -> Vec<String> {
    [
        // A swap, a ring of three, and a chain there and back.
        "RENAME TABLE churn.left_ TO churn.t, churn.right_ TO churn.left_, churn.t TO churn.right_",
        "UPDATE churn.left_ SET v = CONCAT('x', LEFT(v, 250)) WHERE id % 10 = 0",
        "RENAME TABLE churn.a TO churn.t, churn.b TO churn.a, churn.c TO churn.b, churn.t TO churn.c",
        "UPDATE churn.b SET v = LEFT(MD5(v), 20) WHERE id % 7 = 0",
        "RENAME TABLE churn.c TO churn.d, churn.b TO churn.c, churn.a TO churn.b",
        "RENAME TABLE churn.b TO churn.a",
        "RENAME TABLE churn.c TO churn.b",
        "RENAME TABLE churn.d TO churn.c",
        "RENAME TABLE churn.mine TO churn.yours",
        "INSERT INTO churn.yours SELECT MAX(id) + 1, 'renamed' FROM churn.yours",
        "RENAME TABLE churn.yours TO churn.mine",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn altered(n: u64, banks: u64) -> Vec<String> {
    let kind = if n.is_multiple_of(2) { "INT" } else { "BIGINT" };
    let mut all = vec![
        format!("ALTER TABLE churn.wide ADD COLUMN extra_{n} INT DEFAULT {n}, ALGORITHM=INSTANT"),
        format!("ALTER TABLE churn.wide ADD KEY key_{n} (v(30)), ALGORITHM=INPLACE"),
        "UPDATE churn.wide SET v = REPEAT(MD5(v), 6) WHERE id % 20 = 0".to_owned(),
        format!("ALTER TABLE churn.wide DROP KEY key_{n}, ALGORITHM=INPLACE"),
        format!("ALTER TABLE churn.wide DROP COLUMN extra_{n}, ALGORITHM=INSTANT"),
        format!("ALTER TABLE churn.wide MODIFY id {kind} NOT NULL, ALGORITHM=COPY"),
        "ALTER TABLE churn.left_ FORCE, ALGORITHM=INPLACE".to_owned(),
        format!("OPTIMIZE TABLE bank.account_{}", n % banks),
        "OPTIMIZE TABLE shop.legacy".to_owned(),
        format!(
            "ALTER TABLE bank.account_{} FORCE, ALGORITHM=COPY",
            (n + 1) % banks
        ),
    ];
    if n % 8 == 5 {
        all.push("ALTER TABLE shop.packed FORCE".to_owned());
    }
    all
}

fn partitioned(n: u64) -> Vec<String> {
    vec![
        "ALTER TABLE churn.parts EXCHANGE PARTITION p1 WITH TABLE churn.exchanged".to_owned(),
        "ALTER TABLE churn.parts ADD PARTITION (PARTITION p2 VALUES LESS THAN (300000))".to_owned(),
        format!("INSERT INTO churn.parts SELECT 200000 + seq, MD5(seq + {n}) FROM seq_1_to_500"),
        "ALTER TABLE churn.parts REBUILD PARTITION p0".to_owned(),
        "ALTER TABLE churn.parts TRUNCATE PARTITION p2".to_owned(),
        "ALTER TABLE churn.parts DROP PARTITION p2".to_owned(),
    ]
}

fn moved(n: u64) -> Vec<String> {
    let mut all = vec![
        format!("CREATE DATABASE churn_{n}"),
        format!("CREATE TABLE churn_{n}.t (id INT PRIMARY KEY) SELECT seq AS id FROM seq_1_to_200"),
        format!("RENAME TABLE churn.new_{n} TO churn_{n}.moved"),
        format!("INSERT INTO churn_{n}.moved VALUES (1000000, 'here now')"),
    ];
    if n > 2 {
        all.push(format!("DROP DATABASE churn_{}", n - 2));
    }
    all
}
