// Package otlp sends ends to OpenTelemetry, as log records (events) and, where that is
// asked for, as spans, by OTLP over HTTP. They are made with the SDK; batches of them go
// into a queue, and from there to the endpoint, again and again until they are taken.
//
// Rules of this package:
//
//   - Nothing is lost within the queue's bound, whatever the endpoint answers but that
//     it can never take a batch. What is dropped is counted, with why.
//   - Names and types of attributes are OpenTelemetry's where it has them (a test holds
//     them against its conventions), else they begin with tcpbye.
//   - End never waits for the network or the disk.
package otlp
