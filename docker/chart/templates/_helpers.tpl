{{- define "dsocr.name" -}}{{ printf "%s-dsocr" .Release.Name | trunc 52 | trimSuffix "-" }}{{- end }}
{{- define "dsocr.labels" -}}
app.kubernetes.io/name: vllm-dsocr
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "dsocr.selector" -}}
app.kubernetes.io/name: vllm-dsocr
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "dsocr.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "dsocr.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
