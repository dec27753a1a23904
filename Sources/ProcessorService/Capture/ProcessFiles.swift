import CLinux
import Glibc
import Kernel

/// What proc(5) says of a process of the program. All on the control path: these calls allocate. But a shell that starts one
/// command after the other makes a dozen of them each time: they look at bytes, not at characters.
enum ProcessFiles {
    /// One line of /proc/PID/maps.
    struct MappedArea {
        var start: UInt64
        var end: UInt64
        var protection: Int32
        var isPrivate: Bool
        var offset: UInt64
        /// MAJOR:MINOR.
        var device: String
        var inode: UInt64
        var name: String
        var bytes: UInt64 { end - start }

        /// Whether both map the same file, as far as the text says so.
        func hasFile(of other: MappedArea) -> Bool {
            inode == other.inode && device == other.device && name == other.name
        }
    }

    static func open(_ process: Int32, _ name: String, writable: Bool = false) throws(KernelError) -> Descriptor {
        try open("/proc/\(process)/\(name)", writable: writable)
    }

    private static func open(_ path: String, writable: Bool = false) throws(KernelError) -> Descriptor {
        let raw = Glibc.open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC)
        if raw < 0 { throw KernelError("open \(path)") }
        return Descriptor(taking: raw)
    }

    static func text(_ process: Int32, _ name: String) throws(KernelError) -> String {
        try text("/proc/\(process)/\(name)")
    }

    /// A file of proc(5), whole.
    static func text(_ path: String) throws(KernelError) -> String {
        String(decoding: try bytes(path), as: UTF8.self)
    }

    private static func bytes(_ path: String) throws(KernelError) -> [UInt8] {
        let file = try open(path)
        var error: KernelError?
        var capacity = 4 << 10
        while true {
            let bytes = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, used in
                while used < capacity {
                    let count = pread(file.raw, buffer.baseAddress! + used, capacity - used, off_t(used))
                    if count < 0 { error = KernelError("read \(path)") }
                    if count <= 0 { break }
                    used += count
                }
            }
            if let error { throw error }
            // As the kernel makes it anew for each reader, it is read again from its start.
            if bytes.count < capacity { return bytes }
            capacity *= 8
        }
    }

    static func areas(_ process: Int32) throws(KernelError) -> [MappedArea] {
        let bytes = try bytes("/proc/\(process)/maps")
        return bytes.split(separator: UInt8(ascii: "\n")).compactMap(parse)
    }

    private static func parse(_ line: ArraySlice<UInt8>) -> MappedArea? {
        let space = UInt8(ascii: " ")
        let fields = line.split(separator: space, maxSplits: 5, omittingEmptySubsequences: true)
        guard fields.count >= 5, let dash = fields[0].firstIndex(of: UInt8(ascii: "-")),
            let start = number(fields[0][..<dash], radix: 16), let end = number(fields[0][(dash + 1)...], radix: 16),
            start < end, let offset = number(fields[2], radix: 16), let inode = number(fields[4]), fields[1].count == 4
        else { return nil }
        let rights = Array(fields[1])
        var protection: Int32 = 0
        if rights[0] == UInt8(ascii: "r") { protection |= PROT_READ }
        if rights[1] == UInt8(ascii: "w") { protection |= PROT_WRITE }
        if rights[2] == UInt8(ascii: "x") { protection |= PROT_EXEC }
        let name = fields.count > 5 ? fields[5].drop { $0 == space } : []
        return MappedArea(
            start: start, end: end, protection: protection, isPrivate: rights[3] == UInt8(ascii: "p"),
            offset: offset, device: String(decoding: fields[3], as: UTF8.self), inode: inode,
            name: String(decoding: name, as: UTF8.self))
    }

    /// nil for what is no number, or too large.
    private static func number(_ digits: some Sequence<UInt8>, radix: UInt64 = 10) -> UInt64? {
        var value: UInt64 = 0
        var count = 0
        for byte in digits {
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - UInt8(ascii: "a") + 10
            default: return nil
            }
            let (product, isTooLarge) = value.multipliedReportingOverflow(by: radix)
            let (sum, overflows) = product.addingReportingOverflow(UInt64(digit))
            if isTooLarge || overflows || UInt64(digit) >= radix { return nil }
            value = sum
            count += 1
        }
        return count == 0 ? nil : value
    }

    /// A field of /proc/PID/status.
    static func statusField(_ process: Int32, _ field: String) -> String? {
        guard let bytes = try? bytes("/proc/\(process)/status") else { return nil }
        return value(of: field, in: bytes).map { String(decoding: $0, as: UTF8.self) }
    }

    /// What follows `field:` and blanks on its line.
    private static func value(of field: String, in bytes: [UInt8]) -> ArraySlice<UInt8>? {
        var field = field
        return field.withUTF8 { field in
            var start = 0
            while start < bytes.count {
                let end = bytes[start...].firstIndex(of: UInt8(ascii: "\n")) ?? bytes.count
                let line = bytes[start..<end]
                start = end + 1
                guard line.count > field.count, line[line.startIndex + field.count] == UInt8(ascii: ":"),
                    line.starts(with: field)
                else { continue }
                return line.dropFirst(field.count + 1).drop { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
            }
            return nil
        }
    }

    /// The process that a thread belongs to.
    static func process(ofThread thread: Int32) -> Int32 {
        statusField(thread, "Tgid").flatMap { Int32($0) } ?? thread
    }

    /// The number of a process in its innermost pid namespace, which is its own and its agent's.
    static func innermostNumber(_ process: Int32) -> Int32? {
        guard let bytes = try? bytes("/proc/\(process)/status"), let numbers = value(of: "NSpid", in: bytes) else {
            return nil
        }
        return numbers.split(separator: UInt8(ascii: "\t")).last.flatMap { number($0) }.flatMap { Int32(exactly: $0) }
    }

    /// The process behind one of this process's pidfds, in this pid namespace.
    static func process(behind descriptor: Int32) -> Int32? {
        guard let lines = try? text(getpid(), "fdinfo/\(descriptor)") else { return nil }
        return lines.split(separator: "\n").first { $0.hasPrefix("Pid:") }
            .flatMap { Int32($0.dropFirst(4).drop { $0 == "\t" || $0 == " " }) }
    }

    /// The thread or process that `other`, of the same pid namespace, knows by that number.
    static func find(_ number: Int32, besides other: Int32) -> Int32? {
        guard let namespace = namespace(other, "pid") else { return nil }
        for process in processes() where self.namespace(process, "pid") == namespace {
            for thread in threads(process) where isNumbered(thread, innermost: number) { return thread }
        }
        return nil
    }

    /// The stack pointer of a thread that waits in a system call, or is about to (proc(5), /proc/PID/syscall).
    static func stackPointer(ofWaiting thread: Int32, until deadline: Deadline) -> UInt64? {
        while let line = try? text(thread, "syscall") {
            let fields = line.split(whereSeparator: \.isWhitespace)
            // Number, six arguments, stack pointer, instruction pointer; or "running".
            if fields.count == 9 { return UInt64(fields[7].dropFirst(2), radix: 16) }
            if deadline.hasPassed { return nil }
            sched_yield()
        }
        return nil
    }

    /// The inode of one of a thread's namespaces.
    static func namespace(_ thread: Int32, _ kind: String) -> UInt64? {
        var status = stat()
        return stat("/proc/\(thread)/ns/\(kind)", &status) == 0 ? UInt64(status.st_ino) : nil
    }

    /// Whether a process has been killed and is on its way out.
    static func isDying(_ process: Int32) -> Bool {
        guard let bytes = try? bytes("/proc/\(process)/status") else { return false }
        let pending = value(of: "SigPnd", in: bytes).flatMap { number($0, radix: 16) } ?? 0
        let shared = value(of: "ShdPnd", in: bytes).flatMap { number($0, radix: 16) } ?? 0
        let state = value(of: "State", in: bytes)?.first
        return (pending | shared) >> UInt64(SIGKILL - 1) & 1 != 0
            || state == UInt8(ascii: "Z") || state == UInt8(ascii: "X")
    }

    /// Tells the image that a process runs from those that it ran before: where its stack began, which the kernel
    /// chooses at random. Field 28 of /proc/PID/stat.
    static func image(of process: Int32) -> UInt64? { statField(process, 28) }

    /// The processor that a thread last ran on: field 39 of /proc/TID/stat.
    static func lastProcessor(ofThread thread: Int32) -> Int32? { statField(thread, 39) }

    /// Where a process's arguments begin and its environment ends: fields 48 and 51 of /proc/PID/stat.
    static func arguments(_ process: Int32) -> (start: UInt64, end: UInt64)? {
        guard let start: UInt64 = statField(process, 48), let end: UInt64 = statField(process, 51) else { return nil }
        return (start, end)
    }

    /// A limit of a process as getrlimit(2) has it; where prlimit(2) asks for a right that this process has not, a line of
    /// /proc/PID/limits, if wanted, which takes ten times as long and more.
    static func limit(
        _ process: Int32, _ limit: lego_limit, asText: Bool = true
    ) -> (soft: UInt64, hard: UInt64)? {
        var found: (soft: UInt64, hard: UInt64) = (0, 0)
        if lego_get_limit(process, limit, &found.soft, &found.hard) == 0 { return found }
        if !asText { return nil }
        switch limit {
        case LEGO_LIMIT_ADDRESS_SPACE: return limitLine(process, "Max address space")
        case LEGO_LIMIT_DATA: return limitLine(process, "Max data size")
        case LEGO_LIMIT_LOCKED: return limitLine(process, "Max locked memory")
        default: return nil
        }
    }

    private static func limitLine(_ process: Int32, _ name: String) -> (soft: UInt64, hard: UInt64)? {
        guard let lines = try? text(process, "limits").split(separator: "\n"),
            let line = lines.first(where: { $0.hasPrefix(name + " ") })
        else { return nil }
        let words = line.dropFirst(name.count).split(separator: " ")
        func value(_ index: Int) -> UInt64? {
            words.count <= index ? nil : words[index] == "unlimited" ? .max : UInt64(words[index])
        }
        guard let soft = value(0), let hard = value(1) else { return nil }
        return (soft, hard)
    }

    /// A field of /proc/PID/stat by its number in proc(5), from 3 on: those behind the name, which may hold anything.
    private static func statField<Value: FixedWidthInteger>(_ process: Int32, _ number: Int) -> Value? {
        guard let line = try? bytes("/proc/\(process)/stat"), let end = line.lastIndex(of: UInt8(ascii: ")")) else {
            return nil
        }
        let fields = line[(end + 1)...].split(separator: UInt8(ascii: " "))
        return fields.count > number - 3 ? self.number(fields[number - 3]).flatMap { Value(exactly: $0) } : nil
    }

    /// Whether a thread has that number in its innermost pid namespace.
    static func isNumbered(_ thread: Int32, innermost number: Int32) -> Bool {
        innermostNumber(thread) == number
    }

    /// The processes of the host.
    static func processes() -> [Int32] {
        guard let directory = opendir("/proc") else { return [] }
        defer { closedir(directory) }
        var found: [Int32] = []
        while let entry = readdir(directory) {
            let number = withUnsafePointer(to: &entry.pointee.d_name) { name in
                name.withMemoryRebound(to: CChar.self, capacity: 256) { Int32(String(cString: $0)) }
            }
            if let number { found.append(number) }
        }
        return found
    }

    /// The threads of a process.
    static func threads(_ process: Int32) -> [Int32] {
        guard let directory = opendir("/proc/\(process)/task") else { return [] }
        defer { closedir(directory) }
        var found: [Int32] = []
        while let entry = readdir(directory) {
            let number = withUnsafePointer(to: &entry.pointee.d_name) { name in
                name.withMemoryRebound(to: CChar.self, capacity: 256) { Int32(String(cString: $0)) }
            }
            if let number { found.append(number) }
        }
        return found
    }
}
