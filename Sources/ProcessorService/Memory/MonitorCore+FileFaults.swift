import CLinux
import Glibc
import Kernel

/// Faults on private mappings of files.
extension MonitorCore {
    /// A page of a private file mapping: read through the kernel's page cache, with those neighbours of the same 64 KiB
    /// that never were here. One that had left comes back alone: code that is used again and again is to stay, without
    /// what lies around it.
    func fillFromFile(
        _ space: AddressSpace, _ page: UInt64, _ entry: PageTable.EntryPointer, _ message: lego_uffd_message,
        _ region: Region, _ file: MappedFile
    ) {
        var first = page
        var count = 1
        if message.is_write == 0 && entry.pointee.departure == 0 {
            let low = max(region.pages.lowerBound, page & ~15)
            let high = min(region.pages.upperBound, page | 15 + 1)
            while first > low, entry[Int(first) - 1 - Int(page)].isNew { first -= 1 }
            count = Int(page - first) + 1
            while first + UInt64(count) < high, count < windowPages, entry[Int(first) + count - Int(page)].isNew {
                count += 1
            }
            if Int(page - first) >= count { (first, count) = (page, 1) }
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
