import CLinux
import Glibc
import Kernel

/// Faults on private mappings of files.
extension MonitorCore {
    /// A page of a private file mapping: read through the kernel's page cache, with those neighbours of the same 64 KiB
    /// that never were here, and with more of what follows where a stream is seen. One that had left comes back alone
    /// otherwise: code that is used again and again is to stay, without what lies around it.
    func fillFromFile(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, _ message: lego_uffd_message,
        _ region: Region, _ file: MappedFile
    ) {
        var first = page
        var count = 1
        if message.is_write == 0 {
            (first, count) = fileWindow(space, page, entry, within: region.pages)
        }
        if !makeRoom(count) && count > 1 { (first, count) = (page, 1) }
        if space.isDead { return }
        let offset = region.fileOffset + (first - region.pages.lowerBound) * Page.bytes
        let read = readFile(file, offset, count)
        let present = Int((read + Page.bytes - 1) / Page.bytes)
        if first + UInt64(present) <= page {
            // Past the end of the file, as it is now.
            let result = lego_uffd_poison(space.userfault.raw, Page.address(page), Page.bytes)
            if result == -EAGAIN { return space.deferred.append(message) }
            entry.pointee.set(PageEntry.poisoned)
            if result < 0 { lego_uffd_wake(space.userfault.raw, Page.address(page), Page.bytes) }
            return
        }
        copyIn(
            space, first, present, store.readBuffer, message, writable: message.is_write != 0, isAlone: present == 1)
    }

    /// What comes with a page that is read. A stream's window doubles with each of its faults, and counts when it has grown:
    /// program text is read in short runs, and more of it would push out what is used.
    private func fileWindow(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, within pages: Range<UInt64>
    ) -> (first: UInt64, count: Int) {
        let prediction = space.streams.predict(page)
        let isNew = entry.pointee.departure == 0
        let isExpected = prediction.window > 1 && !prediction.isDown
        var (first, count) = (page, 1)
        if isExpected && prediction.window >= 8 {
            let window = isNew ? prediction.window * 4 : prediction.window
            let left = min(512 - page & 511, pages.upperBound - page)
            let room = min(window, windowPages, Int(left))
            while count < room, entry[count].isUntouched { count += 1 }
        } else if isNew {
            (first, count) = fileBlock(page, entry, within: pages)
        }
        if isExpected {
            expectNext(space, prediction, first: first, count: count)
        } else {
            space.streams.restart(first + UInt64(count) - 1)
        }
        return (first, count)
    }

    /// A page with those neighbours of the same 64 KiB that never were here.
    private func fileBlock(
        _ page: UInt64, _ entry: PageTable.EntryPointer, within pages: Range<UInt64>
    ) -> (first: UInt64, count: Int) {
        let low = max(pages.lowerBound, page & ~15)
        let high = min(pages.upperBound, page | 15 + 1)
        var first = page
        while first > low, entry[Int(first) - 1 - Int(page)].isNew { first -= 1 }
        var count = Int(page - first) + 1
        while first + UInt64(count) < high, count < windowPages, entry[Int(first) + count - Int(page)].isNew {
            count += 1
        }
        return Int(page - first) < count ? (first, count) : (page, 1)
    }

    /// Reads up to `count` pages of a file into the read buffer, padded with zeros; answers the bytes that there were.
    func readFile(_ file: MappedFile, _ offset: UInt64, _ count: Int) -> UInt64 {
        let wanted = count * Int(Page.bytes)
        var done = 0
        while done < wanted {
            let result = pread(
                file.descriptor.raw, store.readBuffer + done, wanted - done, off_t(clamping: offset) + off_t(done))
            if result < 0 && errno == EINTR { continue }
            if result <= 0 { break }
            done += result
        }
        if done < wanted { memset(store.readBuffer + done, 0, wanted - done) }
        return UInt64(done)
    }
}
