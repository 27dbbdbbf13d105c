//! Tables that code and `format-spec/` share. A format module declares its layouts, enums and limits as these
//! constants; the spec test compares them with the tables of the documents, both ways.

/// One field of a fixed layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset from the start of the layout, in bytes.
    pub offset: usize,
    /// Width in bytes.
    pub size: usize,
    /// Field name as the document writes it.
    pub name: &'static str,
    /// Type word: `bytes`, `u8`, `u16be`, `u32le`, `u32be`, `u64le`, `u64be`.
    pub kind: &'static str,
}

/// A fixed layout: document line `layout: NAME`, table `offset | size | field | type | meaning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Name in the document.
    pub name: &'static str,
    /// Fields in order of offset, without gaps.
    pub fields: &'static [Field],
}

impl Layout {
    /// Total bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        let mut total = 0;
        let mut i = 0;
        while i < self.fields.len() {
            total += self.fields[i].size;
            i += 1;
        }
        total
    }
}

/// Named values: document line `enum: NAME`, table `value | name | meaning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enum {
    /// Name in the document.
    pub name: &'static str,
    /// Values (decimal or `0x` in the document) and their names.
    pub values: &'static [(u64, &'static str)],
}

/// A named limit: document table under `limits: AREA`, columns `limit | value | unit | why`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Name of the constant in code and document.
    pub name: &'static str,
    /// Value.
    pub value: u64,
    /// Unit, such as `bytes`.
    pub unit: &'static str,
}

/// Everything one format module declares.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// The document's file name in `format-spec/`.
    pub document: &'static str,
    /// Layouts.
    pub layouts: &'static [Layout],
    /// Enums.
    pub enums: &'static [Enum],
    /// Limits.
    pub limits: &'static [Limit],
}
