set -e
export GOCACHE=$PWD/cache GOFLAGS=-mod=mod GO111MODULE=off GOGC=50
go build -o collector "$SOURCES/collector.go"
./collector
