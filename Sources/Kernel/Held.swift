/// Owns an object and lends it without counting a reference. For hot paths: counting one up and down again takes two locked
/// instructions, and a call through a table where anybody refers to the object weakly.
public struct Held<Object: AnyObject>: ~Copyable {
    @usableFromInline let reference: Unmanaged<Object>

    @inlinable
    public init(_ object: Object) { reference = .passRetained(object) }

    deinit { reference.release() }

    /// A counted reference.
    @inlinable
    public var object: Object { reference.takeUnretainedValue() }

    /// Runs `body` on the object, which it must not let escape.
    @inlinable
    @inline(__always)
    public borrowing func lend<Value>(_ body: (Object) -> Value) -> Value { reference._withUnsafeGuaranteedRef(body) }
}

extension Held: @unchecked Sendable where Object: Sendable {}

/// What the reference at `place` refers to, if to anything, for use without counting another reference: as long as whoever
/// keeps that one does. A reference and an optional one are one word each, the same for an object.
@inlinable
@inline(__always)
public func uncounted<Object: AnyObject>(_ type: Object.Type, at place: UnsafeRawPointer) -> Unmanaged<Object>? {
    place.load(as: Unmanaged<Object>?.self)
}

extension Array {
    /// The same for an element, which is a reference or an optional one.
    @inlinable
    @inline(__always)
    public func uncounted<Object: AnyObject>(_ type: Object.Type, at index: Int) -> Unmanaged<Object>? {
        withUnsafeBytes { bytes in
            Kernel.uncounted(type, at: bytes.baseAddress.unsafelyUnwrapped + index * MemoryLayout<Element>.stride)
        }
    }
}
