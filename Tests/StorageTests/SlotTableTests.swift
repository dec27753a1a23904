import Kernel
import Testing

extension StorageTests {
    @Suite struct SlotTableTests {
        @Test func handlesOfFreedSlotsAreRefused() {
            var table = SlotTable<UInt64>(capacity_max: 10, blank: 0)
            var live: [UInt64: UInt64] = [:]
            var dead: [UInt64] = []
            var generator = SystemRandomNumberGenerator()
            for value in UInt64(1)...20_000 {
                if live.count < 1024, Bool.random(using: &generator) || live.isEmpty {
                    let handle = table.insert(value)
                    #expect(handle != nil)
                    #expect(live[handle ?? 0] == nil)
                    live[handle ?? 0] = value
                } else if let handle = live.keys.first {
                    table.remove(handle)
                    table.remove(handle)
                    live[handle] = nil
                    dead.append(handle)
                }
            }
            #expect(table.count == live.count)
            for (handle, value) in live { #expect(table.pointer(handle)?.pointee == value) }
            for handle in dead { #expect(table.pointer(handle) == nil) }
            var visited = 0
            table.forEach { handle, value in
                visited += 1
                #expect(live[handle] == value.pointee)
            }
            #expect(visited == live.count)
        }

        @Test func fullTableRefuses() {
            var table = SlotTable<UInt8>(capacity_max: 1, blank: 0)
            var handles: [UInt64] = []
            while let handle = table.insert(1), handles.count < 5000 { handles.append(handle) }
            #expect(handles.count == 1024)
            table.remove(handles[7])
            let again = table.insert(2)
            #expect(again != nil && again != handles[7])
            #expect(table.pointer(.max) == nil && table.pointer(0) == nil)
        }
    }
}
