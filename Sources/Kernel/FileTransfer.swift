import CLinux
import Glibc

/// pread(2) and pwrite(2) to their end, on regular files. Offsets beyond what off_t holds answer -EINVAL.
public enum FileTransfer {
    /// The bytes read, fewer than asked for at the end of the file alone, or a negative error number.
    public static func read(_ file: Int32, into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) -> Int {
        var moved = 0
        while moved < bytes.count {
            let place = off_t(truncatingIfNeeded: offset &+ UInt64(moved))
            let count = pread(file, bytes.baseAddress! + moved, bytes.count - moved, place)
            if count < 0 && errno == EINTR { continue }
            if count < 0 { return Int(-errno) }
            if count == 0 { break }
            moved += count
        }
        return moved
    }

    /// The bytes written, fewer than given where an error came after some of them (a full disk), or a negative error number.
    /// `clearsSetID`: for somebody without CAP_FSETID, who leaves no set-user-ID on what he writes to.
    public static func write(
        _ file: Int32, _ bytes: UnsafeRawBufferPointer, at offset: UInt64, clearsSetID: Bool
    ) -> Int {
        let cleared = clearsSetID && !bytes.isEmpty ? lego_file_clear_set_id(file) : 0
        if cleared < 0 { return Int(cleared) }
        var moved = 0
        while moved < bytes.count {
            let place = off_t(truncatingIfNeeded: offset &+ UInt64(moved))
            let count = pwrite(file, bytes.baseAddress! + moved, bytes.count - moved, place)
            if count < 0 && errno == EINTR { continue }
            if count < 0 { return moved > 0 ? moved : Int(-errno) }
            moved += count
        }
        return moved
    }
}
