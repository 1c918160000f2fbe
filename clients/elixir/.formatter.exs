[
  inputs: ["{mix,.formatter}.exs", "{lib,test,conformance,examples}/**/*.{ex,exs}"],
  line_length: 110
]
