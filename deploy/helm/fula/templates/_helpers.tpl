{{- define "fula.labels" -}}
app.kubernetes.io/name: fula
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fula.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* Stops where masters would not share what they must share. */ -}}
{{- define "fula.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.arbiter.secret) }}
{{- fail "several masters need a shared arbiter: set arbiter.secret" }}
{{- end }}
{{- if and .Values.arbiter.secret (not .Values.blocks.url) }}
{{- fail "a shared arbiter needs blocks that every master reaches: set blocks.url" }}
{{- end }}
{{- if and .Values.blocks.secret (not .Values.blocks.url) }}
{{- fail "blocks.secret has no meaning without blocks.url" }}
{{- end }}
{{- end }}
