import CAgent
import Kernel

/// A file that private mappings read from. Closed with its last region.
final class MappedFile {
    let descriptor: Descriptor
    init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }

    /// Where the kernel maps files by itself (`MonitorCore+MappedFiles.swift`): programs that are linked to fixed
    /// addresses, others, and what they map. Only here mprotect(2) is trapped, that of memory allocators is elsewhere.
    /// Addresses, multiples of 4 GiB. The last range lies where programs under ThreadSanitizer may have libraries.
    static let places: [Range<UInt64>] = [0..<1 << 32, 0x5500_0000_0000..<0x5700_0000_0000, window]
    static let window: Range<UInt64> = 0x7e80_0000_0000..<LEGO_AGENT_BASE

    static func mayBeMapped(_ pages: Range<UInt64>) -> Bool {
        places.contains {
            Page.number($0.lowerBound) <= pages.lowerBound && pages.upperBound <= Page.number($0.upperBound)
        }
    }
}

/// A range of private memory: what the kernel knows as one or more anonymous, private areas.
struct Region {
    /// Page numbers.
    var pages: Range<UInt64>
    /// What untouched pages hold; nil: zeros.
    var file: MappedFile?
    /// The file's byte at the region's first page.
    var fileOffset: UInt64 = 0
    /// A child of fork finds zeros here (MADV_WIPEONFORK).
    var isWipedOnFork = false
    /// A child of fork finds nothing here (MADV_DONTFORK).
    var isLeftByFork = false
    /// The kernel fills it by itself: fresh memory (`MonitorCore+Unwatched.swift`), or a file that it maps
    /// (`MonitorCore+MappedFiles.swift`).
    var isUnwatched = false
    /// The kernel's own mapping of a file.
    var isMappedFile: Bool { isUnwatched && file != nil }

    /// Whether `next`, which begins where this ends, continues it.
    func continues(in next: Region) -> Bool {
        if pages.upperBound != next.pages.lowerBound || isWipedOnFork != next.isWipedOnFork { return false }
        if isLeftByFork != next.isLeftByFork || isUnwatched != next.isUnwatched { return false }
        if file == nil && next.file == nil { return true }
        return file === next.file && fileOffset + UInt64(pages.count) * Page.bytes == next.fileOffset
    }

    /// The part of this region that lies in `range`, which overlaps it.
    func clipped(to range: Range<UInt64>) -> Region {
        var part = self
        part.pages = pages.clamped(to: range)
        part.fileOffset += (part.pages.lowerBound - pages.lowerBound) * Page.bytes
        return part
    }
}

/// The private memory of one address space, ascending and disjoint; neighbours of one kind are merged. Owned by the
/// monitor thread. Changes cost O(regions), look-ups O(log regions).
struct RegionTable {
    private(set) var regions: [Region] = []

    /// From the first region's first page to the last one's end; nil when there is none.
    var bounds: Range<UInt64>? {
        guard let first = regions.first, let last = regions.last else { return nil }
        return first.pages.lowerBound..<last.pages.upperBound
    }

    /// Pages of the regions that are not watched. O(regions).
    var unwatchedPages: (fresh: Int, ofFiles: Int) {
        var (fresh, ofFiles) = (0, 0)
        for region in regions where region.isUnwatched {
            if region.file == nil { fresh += region.pages.count } else { ofFiles += region.pages.count }
        }
        return (fresh, ofFiles)
    }

    /// The index of the first region that ends beyond `page`.
    private func firstIndex(endingAfter page: UInt64) -> Int {
        var low = 0
        var high = regions.count
        while low < high {
            let middle = (low + high) / 2
            if regions[middle].pages.upperBound > page { high = middle } else { low = middle + 1 }
        }
        return low
    }

    /// Where `page` lies, or nil.
    func index(of page: UInt64) -> Int? {
        let index = firstIndex(endingAfter: page)
        return index < regions.count && regions[index].pages.lowerBound <= page ? index : nil
    }

    /// Adds a region in place of whatever was there.
    mutating func insert(_ region: Region) {
        if region.pages.isEmpty { return }
        remove(region.pages)
        var index = firstIndex(endingAfter: region.pages.lowerBound)
        regions.insert(region, at: index)
        if index > 0, regions[index - 1].continues(in: regions[index]) {
            regions[index - 1].pages = regions[index - 1].pages.lowerBound..<regions[index].pages.upperBound
            regions.remove(at: index)
            index -= 1
        }
        if index + 1 < regions.count, regions[index].continues(in: regions[index + 1]) {
            regions[index].pages = regions[index].pages.lowerBound..<regions[index + 1].pages.upperBound
            regions.remove(at: index + 1)
        }
    }

    /// Cuts a hole.
    mutating func remove(_ pages: Range<UInt64>) {
        if pages.isEmpty { return }
        var index = firstIndex(endingAfter: pages.lowerBound)
        while index < regions.count, regions[index].pages.lowerBound < pages.upperBound {
            let old = regions[index]
            let left = old.pages.lowerBound < pages.lowerBound
            let right = old.pages.upperBound > pages.upperBound
            if left { regions[index] = old.clipped(to: old.pages.lowerBound..<pages.lowerBound) }
            if right {
                let tail = old.clipped(to: pages.upperBound..<old.pages.upperBound)
                if left { regions.insert(tail, at: index + 1) } else { regions[index] = tail }
                return
            }
            if left { index += 1 } else { regions.remove(at: index) }
        }
    }

    /// The parts of regions that lie in `pages`.
    func parts(in pages: Range<UInt64>) -> [Region] {
        var found: [Region] = []
        var index = firstIndex(endingAfter: pages.lowerBound)
        while index < regions.count, regions[index].pages.lowerBound < pages.upperBound {
            found.append(regions[index].clipped(to: pages))
            index += 1
        }
        return found
    }

    /// Whether any of `pages` is private memory.
    func overlaps(_ pages: Range<UInt64>) -> Bool {
        let index = firstIndex(endingAfter: pages.lowerBound)
        return index < regions.count && regions[index].pages.lowerBound < pages.upperBound
    }
}
