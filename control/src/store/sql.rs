//! One SQL for both databases: statements with the parameters `?1`, `?2`, .. over numbers from 0 up, texts and bytes.
//!
//! Both run what is here, so a query is written once. What they spell differently is only in the migrations.

use gatepass_protocol::ids::{ComputerId, DeviceId, Serial, TechnicianId, TenantId};
use gatepass_protocol::keys::Kid;

use super::StoreError;

/// A parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    /// At most 2^63 - 1: both databases count with a sign.
    Number(u64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// A column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Number(u64),
    Text(String),
    Bytes(Vec<u8>),
}

/// What a database is asked within one transaction.
pub(crate) trait Db {
    /// Changes something; says how many rows.
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError>;

    /// Hands over row by row.
    fn each(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
}

impl dyn Db + '_ {
    /// All rows.
    pub(crate) fn rows<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&mut Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = Vec::new();
        self.each(sql, values, &mut |mut row| {
            rows.push(read(&mut row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// The only row, if there is one.
    pub(crate) fn row<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&mut Row) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, values, read)?.pop())
    }
}

/// A row, read column by column.
#[derive(Debug)]
pub(crate) struct Row(std::vec::IntoIter<Cell>);

impl Row {
    pub(crate) fn new(cells: Vec<Cell>) -> Row {
        Row(cells.into_iter())
    }

    /// The next column.
    pub(crate) fn next<T: Column>(&mut self) -> Result<T, StoreError> {
        let cell = self.0.next().ok_or(StoreError::Damaged("a row is too short"))?;
        T::read(cell)
    }

    /// The columns that were not read yet.
    pub(crate) fn rest(self) -> Vec<Cell> {
        self.0.collect()
    }
}

impl Cell {
    /// The same as a parameter.
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Cell::Null => Value::Null,
            Cell::Number(number) => Value::Number(*number),
            Cell::Text(text) => Value::Text(text),
            Cell::Bytes(bytes) => Value::Bytes(bytes),
        }
    }
}

/// What a column can be read as.
pub(crate) trait Column: Sized {
    fn read(cell: Cell) -> Result<Self, StoreError>;
}

impl Column for u64 {
    fn read(cell: Cell) -> Result<Self, StoreError> {
        match cell {
            Cell::Number(number) => Ok(number),
            _ => Err(StoreError::Damaged("a column is not a number")),
        }
    }
}

impl Column for bool {
    fn read(cell: Cell) -> Result<Self, StoreError> {
        Ok(u64::read(cell)? != 0)
    }
}

impl Column for String {
    fn read(cell: Cell) -> Result<Self, StoreError> {
        match cell {
            Cell::Text(text) => Ok(text),
            _ => Err(StoreError::Damaged("a column is not a text")),
        }
    }
}

impl Column for Vec<u8> {
    fn read(cell: Cell) -> Result<Self, StoreError> {
        match cell {
            Cell::Bytes(bytes) => Ok(bytes),
            _ => Err(StoreError::Damaged("a column does not have bytes")),
        }
    }
}

impl<const N: usize> Column for [u8; N] {
    fn read(cell: Cell) -> Result<Self, StoreError> {
        let bytes = Vec::<u8>::read(cell)?;
        bytes.try_into().map_err(|_| StoreError::Damaged("a column has bytes of another length"))
    }
}

impl<T: Column> Column for Option<T> {
    fn read(cell: Cell) -> Result<Self, StoreError> {
        match cell {
            Cell::Null => Ok(None),
            cell => T::read(cell).map(Some),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Value::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Value::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Value::Bytes(bytes)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Value::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Value::Number(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Value::Number(yes.into())
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// Identifiers are kept as their bytes.
macro_rules! identifiers {
    ($($name:ident),*) => {$(
        impl<'a> From<&'a $name> for Value<'a> {
            fn from(id: &'a $name) -> Self {
                Value::Bytes(&id.0)
            }
        }

        impl Column for $name {
            fn read(cell: Cell) -> Result<Self, StoreError> {
                Column::read(cell).map($name)
            }
        }
    )*};
}

identifiers!(TenantId, TechnicianId, DeviceId, ComputerId, Serial, Kid);
