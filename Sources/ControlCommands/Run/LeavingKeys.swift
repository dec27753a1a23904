/// Ctrl-P Ctrl-Q, which takes a user away from a program's terminal. Ctrl-P is held back until the next key says whether it
/// was the first of the two.
struct LeavingKeys {
    private static let first: UInt8 = 0x10
    private static let second: UInt8 = 0x11
    private var isHeld = false

    /// Moves what is for the program of `keys`, which begin at the second byte, to the beginning. Answers how many bytes
    /// that are, and whether the user leaves: what was typed after that is nobody's.
    mutating func take(_ keys: UnsafeMutableRawBufferPointer) -> (count: Int, leaves: Bool) {
        var count = 0
        for index in 1..<keys.count {
            let key = keys[index]
            if isHeld && key == Self.second { return (count, true) }
            if isHeld {
                keys[count] = Self.first
                count += 1
            }
            isHeld = key == Self.first
            if !isHeld {
                keys[count] = key
                count += 1
            }
        }
        return (count, false)
    }
}
