//! Values, each kept once and named by a number.

use std::collections::HashMap;
use std::hash::Hash;

use crate::situation::Index;

#[derive(Debug)]
pub(super) struct Interner<T> {
    pub(super) values: Vec<T>,
}

impl<T: PartialEq + Clone> Interner<T> {
    pub(super) fn intern(&mut self, value: &T) -> Index {
        let found = self.values.iter().position(|known| known == value);
        let place = found.unwrap_or_else(|| {
            self.values.push(value.clone());
            self.values.len() - 1
        });
        Index::try_from(place).unwrap_or(Index::MAX)
    }

    pub(super) fn get(&self, index: Index) -> &T {
        &self.values[usize::from(index)]
    }
}

#[derive(Debug)]
pub(super) struct HashInterner<T> {
    pub(super) values: Vec<T>,
    places: HashMap<T, Index>,
}

impl<T: Eq + Hash + Clone> HashInterner<T> {
    pub(super) fn intern(&mut self, value: &T) -> Index {
        if let Some(place) = self.places.get(value) {
            return *place;
        }
        let place = Index::try_from(self.values.len()).unwrap_or(Index::MAX);
        assert!(place < Index::MAX, "a configuration has fewer rows than that");
        self.values.push(value.clone());
        self.places.insert(value.clone(), place);
        place
    }

    pub(super) fn get(&self, index: Index) -> &T {
        &self.values[usize::from(index)]
    }
}

impl<T> Default for HashInterner<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            places: HashMap::new(),
        }
    }
}
