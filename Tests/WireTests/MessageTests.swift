import Testing
import Wire

@Suite struct MessageTests {
    @Test(arguments: GoldenMessages.all) func encodesToItsGoldenBytes(sample: MessageSample) {
        var buffer = [UInt8](repeating: 0xEE, count: sample.golden.count + 8)
        let count = buffer.withUnsafeMutableBytes { sample.encode($0) }
        #expect(count == sample.golden.count)
        #expect(Array(buffer[..<sample.golden.count]) == sample.golden)
        #expect(buffer[sample.golden.count...].allSatisfy { $0 == 0xEE }, "bytes were written behind the message")
    }

    @Test(arguments: GoldenMessages.all) func decodesItsGoldenBytes(sample: MessageSample) {
        #expect(sample.golden.withUnsafeBytes { sample.isDecoded($0) })
    }

    @Test(arguments: GoldenMessages.all) func refusesEveryTruncationAndATrailingByte(sample: MessageSample) {
        for length in sample.golden.indices {
            #expect(
                sample.roundTrip(Array(sample.golden[..<length])) == nil, "\(length) bytes were taken for a message")
        }
        #expect(sample.roundTrip(sample.golden + [0]) == nil)
    }

    @Test(arguments: GoldenMessages.all) func reportsABufferThatIsTooSmall(sample: MessageSample) {
        for length in sample.golden.indices {
            var buffer = [UInt8](repeating: 0xEE, count: length + 8)
            let count = buffer.withUnsafeMutableBytes { whole in
                sample.encode(UnsafeMutableRawBufferPointer(rebasing: whole[..<length]))
            }
            #expect(count == nil)
            #expect(buffer[length...].allSatisfy { $0 == 0xEE }, "bytes were written behind a buffer of \(length)")
        }
    }

    /// Whatever decodes is what its encoder would have written: there is one way to say a thing.
    @Test(arguments: GoldenMessages.all) func neverTrapsOnDamagedBytes(sample: MessageSample) {
        var random = SplitMix(state: UInt64(sample.golden.count))
        for _ in 0..<3_000 {
            var bytes = sample.golden
            for _ in 0..<Int.random(in: 1...4, using: &random) where !bytes.isEmpty {
                let place = Int.random(in: bytes.indices, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0 ... .max, using: &random)
                case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 2: bytes[place] = 0xFF
                default: bytes.remove(at: place)
                }
            }
            if let again = sample.roundTrip(bytes) { #expect(again == bytes) }
        }
    }

    @Test(arguments: GoldenMessages.all) func neverTrapsOnRandomBytes(sample: MessageSample) {
        var random = SplitMix(state: 99)
        for _ in 0..<3_000 {
            let bytes = (0..<Int.random(in: 0...200, using: &random)).map { _ in
                UInt8.random(in: 0 ... .max, using: &random)
            }
            if let again = sample.roundTrip(bytes) { #expect(again == bytes) }
        }
    }
}
