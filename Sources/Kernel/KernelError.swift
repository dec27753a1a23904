import Glibc

/// A system call that failed: which one, and why.
public struct KernelError: Error, Equatable, CustomStringConvertible {
    /// The call as the manual names it, e.g. `"memfd_create"`.
    public let call: String
    /// The error number (`errno`), positive.
    public let number: Int32

    public init(_ call: String, _ number: Int32 = errno) {
        self.call = call
        self.number = number
    }

    /// `memfd_create: Cannot allocate memory`.
    public var description: String {
        let advice = number == ENOSYS ? " (Linux 6.8 or later is needed)" : ""
        return "\(call): \(Self.text(number))\(advice)"
    }

    /// The operator's text of an error number.
    public static func text(_ number: Int32) -> String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
            // The XSI variant: answers non-zero for an unknown number, and has written a text all the same.
            _ = strerror_r(number, buffer.baseAddress!, buffer.count)
            return String(cString: buffer.baseAddress!)
        }
    }
}

/// Passes on the result of a shim that answers `-errno`, as a thrown error where it is negative.
@inlinable
public func checked<Value: SignedInteger>(_ call: String, _ result: Value) throws(KernelError) -> Value {
    if result < 0 { throw KernelError(call, Int32(-result)) }
    return result
}
