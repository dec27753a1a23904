import Glibc
import StorageMount
import Testing

@testable import StorageService

extension StorageTests {
    /// The same programs in a native directory and in a mounted one must print the same.
    @Suite struct ComparisonTests {
        private func compare(
            _ command: [String], export: @escaping @Sendable (TemporaryDirectory) throws -> StorageConfiguration
        ) async throws {
            let directory = try TemporaryDirectory()
            let native = directory.make("native")
            let mountPoint = directory.make("mount")
            let expected = try Child.run(command + [native])
            let actual = try await withPrivateMounts {
                let storage = try TestStorage(try export(directory))
                defer { storage.close() }
                let processor = try TestProcessor(storage, at: mountPoint)
                defer { processor.close() }
                return try Child.run(command + [mountPoint])
            }
            let (left, right) = (expected.split(separator: "\n"), actual.split(separator: "\n"))
            for (native, mounted) in zip(left, right) { #expect(native == mounted) }
            #expect(left.count == right.count)
            #expect(left.count > 20)
        }

        @Test func kernelInterface() async throws {
            try await compare(["python3", script("semantics.py")]) {
                StorageConfiguration(export: .directory($0.make("export")))
            }
        }

        /// Nodes are closed and opened again all the time.
        @Test func kernelInterfaceWithFewNodesAtHand() async throws {
            try await compare(["python3", script("semantics.py")]) {
                var configuration = StorageConfiguration(export: .directory($0.make("export")))
                configuration.openNodes_max = 2
                return configuration
            }
        }

        @Test func kernelInterfaceOnOverlay() async throws {
            try await compare(["python3", script("semantics.py")]) {
                StorageConfiguration(export: .overlay(lower: $0.make("lower"), stateDirectory: $0.make("state")))
            }
        }

        @Test func programs() async throws {
            try await compare(["sh", script("workload.sh")]) {
                StorageConfiguration(export: .directory($0.make("export")))
            }
        }

        @Test func programsOnOverlay() async throws {
            try await compare(["sh", script("workload.sh")]) {
                StorageConfiguration(export: .overlay(lower: $0.make("lower"), stateDirectory: $0.make("state")))
            }
        }
    }
}
