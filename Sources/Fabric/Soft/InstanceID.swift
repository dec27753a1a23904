import Glibc
import Kernel

/// 16 bytes that name a device's life, a host's boot or a connection attempt.
struct InstanceID: Hashable, Sendable {
    var high: UInt64
    var low: UInt64

    static func random() -> InstanceID { InstanceID(high: .random(in: 1 ... .max), low: .random(in: 0 ... .max)) }

    /// This boot of this host: the same in every container on it.
    static func ofHost() throws(FabricError) -> InstanceID {
        let path = "/proc/sys/kernel/random/boot_id"
        let raw = open(path, O_RDONLY | O_CLOEXEC)
        if raw < 0 { throw .system(KernelError("open \(path)")) }
        let file = Descriptor(taking: raw)
        var text = [UInt8](repeating: 0, count: 64)
        let count = read(file.raw, &text, text.count)
        let digits = text.prefix(max(0, count)).compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == 32 else { throw .invalid("\(path) holds no UUID: 32 hexadecimal digits are needed") }
        let number = { (part: ArraySlice<Int>) in part.reduce(UInt64(0)) { $0 << 4 | UInt64($1) } }
        return InstanceID(high: number(digits[..<16]), low: number(digits[16...]))
    }

    /// 32 hexadecimal digits.
    var text: String {
        [high, low].map { word in
            let digits = String(word, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }.joined()
    }
}
