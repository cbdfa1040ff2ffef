//! Places for many equal things: no allocation each, none moves, and a place given back is used again.

/// Things in one allocation.
const SEGMENT: usize = 1024;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    segments: Vec<Vec<T>>,
    free: Vec<u32>,
    used: usize,
}

impl<T> Slab<T> {
    pub fn new() -> Slab<T> {
        Slab {
            segments: Vec::new(),
            free: Vec::new(),
            used: 0,
        }
    }

    pub fn put(&mut self, thing: T) -> u32 {
        self.used += 1;
        if let Some(place) = self.free.pop() {
            *self.get_mut(place) = thing;
            return place;
        }
        if self.segments.last().is_none_or(|segment| segment.len() == SEGMENT) {
            self.segments.push(Vec::with_capacity(SEGMENT));
        }
        let segments = self.segments.len();
        let segment = &mut self.segments[segments - 1];
        segment.push(thing);
        ((segments - 1) * SEGMENT + segment.len() - 1) as u32
    }

    /// Gives the place back; what is there stays until it is used again.
    pub fn free(&mut self, place: u32) {
        self.used -= 1;
        self.free.push(place);
    }

    #[inline]
    pub fn get(&self, place: u32) -> &T {
        &self.segments[place as usize / SEGMENT][place as usize % SEGMENT]
    }

    #[inline]
    pub fn get_mut(&mut self, place: u32) -> &mut T {
        &mut self.segments[place as usize / SEGMENT][place as usize % SEGMENT]
    }

    /// Things there are.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Places there have ever been.
    #[inline]
    pub fn places(&self) -> u32 {
        // All but the last are full.
        let full = self.segments.len().saturating_sub(1) * SEGMENT;
        (full + self.segments.last().map_or(0, Vec::len)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_nothing_moves() {
        let mut slab = Slab::new();
        let places: Vec<_> = (0..3000).map(|n| slab.put(n)).collect();
        assert!(places.iter().enumerate().all(|(n, place)| *slab.get(*place) == n));
        slab.free(places[7]);
        assert_eq!(slab.put(9), places[7]);
        assert_eq!((slab.len(), slab.places()), (3000, 3000));
        *slab.get_mut(places[8]) = 1;
        assert_eq!(*slab.get(places[8]), 1);
    }
}
